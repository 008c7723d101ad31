// The documents of an image: order of preference, entries without platform, nesting, and the labels that keep children.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { codeOf, fail } from '../../../../src/api/model/errors.ts';
import { childLabels, chooseManifest } from '../../../../src/api/model/image-tree.ts';
import { type LinkedDescriptor, mediaType, parseDescriptor } from '../../../../src/api/model/oci.ts';
import { matchRunnable, platformOf } from '../../../../src/api/model/platform.ts';

/** A store of documents that gives each one's descriptor as JSON has it. */
function store() {
  const blobs = new Map<string, Uint8Array>();
  const put = (type: string, document: unknown, platform?: unknown) => {
    const bytes = Buffer.from(JSON.stringify(document));
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
    blobs.set(digest, bytes);
    return {
      mediaType: type,
      digest,
      size: bytes.byteLength,
      ...(platform === undefined ? {} : { platform }),
    };
  };
  const image = (os: string, architecture: string, platform?: unknown) => {
    const config = put(mediaType.ociConfig, { os, architecture, n: blobs.size });
    return put(mediaType.ociManifest, { config, layers: [] }, platform);
  };
  const load = async ({ digest }: LinkedDescriptor): Promise<Uint8Array> => {
    const bytes = blobs.get(digest);
    if (bytes === undefined) throw fail('not-found', digest);
    return bytes;
  };
  const choose = async (target: unknown, architecture = 'amd64') => {
    const matches = matchRunnable(platformOf('linux', architecture));
    return (await chooseManifest(parseDescriptor(target, 't'), matches, load)).descriptor.digest;
  };
  return { put, image, choose, blobs };
}

test('the best platform wins, whatever the order; attestations never do', async () => {
  const { put, image, choose } = store();
  const i386 = image('linux', '386', { os: 'linux', architecture: '386' });
  const amd64 = image('linux', 'amd64', { os: 'linux', architecture: 'amd64' });
  const attestation = image('unknown', 'unknown', { os: 'unknown', architecture: 'unknown' });
  const index = put(mediaType.ociIndex, { manifests: [attestation, i386, amd64] });
  assert.equal(await choose(index), amd64.digest);
  assert.equal(await choose(put(mediaType.dockerList, { manifests: [attestation, i386] })), i386.digest);
  assert.equal(await choose(index, 's390x').catch(codeOf), 'not-found');
  assert.equal(await choose(put(mediaType.ociIndex, { manifests: [amd64, i386] })), amd64.digest);
});

test('entries without platform are asked by their configs, after the others', async () => {
  const { put, image, choose, blobs } = store();
  const arm = image('linux', 'arm64');
  const amd64 = image('linux', 'amd64');
  const gone = image('linux', 'amd64');
  blobs.delete(gone.digest);
  assert.equal(await choose(put(mediaType.ociIndex, { manifests: [arm, gone, amd64] })), amd64.digest);
});

test('a manifest is taken as it is; nested indexes are entered, not for ever', async () => {
  const { put, image, choose } = store();
  const foreign = image('windows', 'arm64');
  assert.equal(await choose(foreign), foreign.digest);
  let index = image('linux', 'amd64', { os: 'linux', architecture: 'amd64' });
  for (let depth = 0; depth < 3; depth++) index = put(mediaType.ociIndex, { manifests: [index] });
  await choose(index);
  for (let depth = 0; depth < 5; depth++) index = put(mediaType.ociIndex, { manifests: [index] });
  assert.equal(await choose(index).catch(codeOf), 'invalid-argument');
  assert.equal(await choose({ ...foreign, mediaType: 'text/html' }).catch(codeOf), 'invalid-argument');
  assert.equal(
    await choose({ ...foreign, mediaType: mediaType.dockerSchema1 }).catch(codeOf),
    'unimplemented',
  );
});

test('labels count per kind of child', () => {
  const digest = (c: string) => `sha256:${c.repeat(64)}`;
  const one = (type: string, c: string) => ({ mediaType: type, digest: digest(c), size: 1 });
  const manifest = {
    config: one(mediaType.ociConfig, 'a'),
    layers: [one(mediaType.ociLayer, 'b'), one('application/x', 'c'), one(mediaType.dockerLayer, 'd')],
  };
  const prefix = 'containerd.io/gc.ref.content.';
  assert.deepEqual(
    [...childLabels(mediaType.ociManifest, Buffer.from(JSON.stringify(manifest)), 'm')],
    [
      [`${prefix}config`, digest('a')],
      [`${prefix}l.0`, digest('b')],
      [`${prefix}0`, digest('c')],
      [`${prefix}l.1`, digest('d')],
    ],
  );
  const index = { manifests: [one(mediaType.ociManifest, 'a'), one(mediaType.ociIndex, 'b')] };
  assert.deepEqual(
    [...childLabels(mediaType.ociIndex, Buffer.from(JSON.stringify(index)), 'i')],
    [
      [`${prefix}m.0`, digest('a')],
      [`${prefix}0`, digest('b')],
    ],
  );
});
