// Apply and Diff on mounts that only the daemon can perform: templates over other mounts.
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { createClient } from '../../src/api/client/index.ts';
import { parseDigest } from '../../src/api/model/ids.ts';
import { Mount } from '../../src/api/proto/gen/types/mount.ts';
import { startDaemon } from '../fixtures/daemon.ts';
import { buildLayer } from '../fixtures/image.ts';
import { fastDirectory, mountsBelow, scratch } from '../fixtures/scratch.ts';

const skip = process.getuid?.() !== 0 && 'needs root';

test('a layer is applied to, and made of, an overlay that is a template', {
  skip,
  timeout: 100_000,
}, async () => {
  await using daemon = await startDaemon('troupe', { parent: fastDirectory() });
  using client = createClient({ address: daemon.address, namespace: daemon.namespace });
  const { id: lease } = await client.leases.acquire();
  await using directory = scratch('templates', fastDirectory());
  for (const name of ['lower', 'upper', 'work']) mkdirSync(directory.sub(name));
  writeFileSync(directory.sub('lower/old'), 'old');
  const lower = Mount.create({ type: 'bind', source: directory.sub('lower'), options: ['rbind', 'ro'] });
  const overlay = Mount.create({
    type: 'format/overlay',
    source: 'overlay',
    options: [
      'lowerdir={{ mount 0 }}',
      `upperdir=${directory.sub('upper')}`,
      `workdir=${directory.sub('work')}`,
    ],
  });
  const layer = await buildLayer([
    { name: 'new', content: 'new' },
    { name: '.wh.old', content: '' },
  ]);
  const digest = parseDigest(layer.digest);
  await client.content.ingest({
    ...{ ref: 'layer', expected: digest, sizeBytes: BigInt(layer.bytes.length), lease },
    async *source() {
      yield layer.bytes;
    },
  });
  const diff = { mediaType: layer.mediaType, digest, size: BigInt(layer.bytes.length) };
  const { applied } = await client.services.diff.apply({
    diff: { ...diff, annotations: new Map() },
    mounts: [lower, overlay],
  });
  assert.equal(applied?.digest, layer.diffId);
  assert.equal(readFileSync(directory.sub('upper/new'), 'utf8'), 'new');
  assert.deepEqual(readdirSync(directory.sub('lower')), ['old']);

  const mediaType = 'application/vnd.oci.image.layer.v1.tar';
  const made = await client.services.diff.diff(
    { left: [lower], right: [lower, overlay], mediaType },
    { lease },
  );
  const tar = await client.content.readAll(made.diff!.digest, 1_000_000);
  for (const name of ['new', '.wh.old']) assert.ok(tar.includes(`${name}\0`), name);

  // Nothing of it is left: no mount, and no lease but ours.
  assert.deepEqual(mountsBelow(daemon.root), []);
  assert.deepEqual(
    (await client.leases.list()).map((one) => one.id),
    [lease],
  );
});
