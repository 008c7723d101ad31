// Content, snapshots and archives by ctr on both daemons: blobs fetched, read and written by hand, snapshots made step
// by step, archives of every kind, and what is refused.
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { featureImage } from '../fixtures/feature-image.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { runOk } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { scratch } from '../fixtures/scratch.ts';
import { lastFrame } from './mask.ts';
import { startPair } from './side.ts';

const shape = lastFrame;
const sizes = (text: string): string => text.replace(/ [\d.]+ [KM]?i?B\b/g, ' SIZE');

test('content, snapshots and archives: the same commands answer alike on both daemons', async (t) => {
  await using registry = await startRegistry();
  await using files = scratch('archives');
  const busyboxBuilt = await busyboxImage();
  const built = busyboxBuilt.manifests[0]!;
  const busybox = await registry.push(busyboxBuilt, 'library/busybox', 'latest');
  const feature = await registry.push(await featureImage(), 'library/feature', 'v1');
  const docker = files.sub('docker.tar');
  const oci = files.sub('oci.tar');
  for (const [form, path] of [
    ['docker-archive', `${docker}:example.com/from/docker:1`],
    ['oci-archive', `${oci}:only-a-tag`],
  ]) {
    await runOk('skopeo', [
      '--insecure-policy',
      'copy',
      '--src-tls-verify=false',
      `docker://${busybox}`,
      `${form}:${path}`,
    ]);
  }
  await using pair = await startPair();

  await t.test('fetch, get, label, ingest and remove', () =>
    pair.alike(async (side) => {
      await side.ok(['content', 'fetch', '--plain-http', busybox], { shape });
      await side.ok(['images', 'check']);
      await side.ok(['content', 'get', built.manifest.digest]);
      await side.ok(['content', 'get', built.config.digest]);
      await side.ok(['content', 'label', built.config.digest, 'one=1', 'two']);
      await side.ok(['content', 'ls', 'labels."one"==1']);
      await side.ok(['content', 'ls', `digest==${built.config.digest}`]);
      await side.ok(['content', 'ingest', '--expected-size', '5', 'a-ref'], { input: 'hello' });
      await side.ok(['content', 'active']);
      await side.ok(['content', 'ls', '-q']);
      const hello = 'sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824';
      await side.ok(['content', 'get', hello]);
      await side.fails('a-ref', ['content', 'ingest', '--expected-size', '6', 'a-ref'], { input: 'hellx' });
      await side.ok(['content', 'rm', hello]);
      await side.fails(hello, ['content', 'get', hello]);
      await side.fails('sha256:1', ['content', 'get', 'sha256:1']);
    }),
  );

  await t.test('an image that is not complete', () =>
    pair.alike(async (side) => {
      const there = ['-n', `${side.daemon.namespace}-2`];
      await side.ok([...there, 'content', 'fetch', '--plain-http', feature], { shape });
      await side.ok([...there, 'images', 'check']);
      await side.ok([...there, 'content', 'rm', built.layers[0]!.digest]);
      await side.ok([...there, 'images', 'check']);
      await side.ok([...there, 'images', 'ls']);
      const out = join(side.daemon.directory, 'never.tar');
      await side.fails(built.layers[0]!.digest, [...there, 'images', 'export', out, feature]);
      await side.fails('no/such:1', [...there, 'images', 'export', out, 'no/such:1']);
      await side.fails('push', [...there, 'images', 'push', '--plain-http', `${registry.host}/push/it:1`]);
    }),
  );

  await t.test('snapshots step by step', () =>
    pair.alike(async (side) => {
      await side.ok(['images', 'pull', '--plain-http', busybox], { shape });
      const top = built.layers[0]!.diffId;
      await side.ok(['snapshots', 'unpack', built.manifest.digest]);
      await side.ok(['snapshots', 'info', top], {
        shape: (text) => text.replace(/"(Created|Updated)": "[^"]*"/g, '"$1": "TIME"'),
      });
      await side.ok(['snapshots', 'view', 'a-view', top]);
      await side.ok(['snapshots', 'prepare', 'active', top]);
      await side.ok(['snapshots', 'ls']);
      await side.ok(['snapshots', 'commit', 'committed', 'active']);
      await side.ok(['snapshots', 'prepare', 'upon', 'committed']);
      await side.ok(['snapshots', 'label', 'upon', 'a=b']);
      await side.ok(['snapshots', 'tree']);
      await side.ok(['snapshots', 'usage', 'committed', 'upon'], { shape: sizes });
      await side.fails('committed', ['snapshots', 'rm', 'committed']);
      await side.fails('none', ['snapshots', 'info', 'none']);
      await side.fails('upon', ['snapshots', 'prepare', 'upon', top]);
      await side.fails('none', ['snapshots', 'prepare', 'other', 'none']);
      await side.ok(['snapshots', 'diff', '--keep', 'upon'], { shape: () => '' });
      await side.ok(['snapshots', 'rm', 'upon', 'committed', 'a-view']);
      await side.ok(['snapshots', 'ls']);
    }),
  );

  await t.test('archives of docker and OCI, with and without names', () =>
    pair.alike(async (side) => {
      for (const [i, args] of [
        [docker],
        ['--digests', docker],
        ['--base-name', 'example.com/from/docker', docker],
        ['--base-name', 'example.com/other', docker],
        ['--no-unpack', '--index-name', 'the/index:1', oci],
        ['--base-name', 'example.com/base', oci],
        ['--all-platforms', oci],
      ].entries()) {
        const there = ['-n', `${side.daemon.namespace}-i${i}`];
        await side.ok([...there, 'images', 'import', ...args]);
        await side.ok([...there, 'images', 'ls']);
        await side.ok([...there, 'images', 'check']);
        await side.ok([...there, 'content', 'ls', '-q']);
      }
      const broken = join(side.daemon.directory, 'broken.tar');
      writeFileSync(broken, 'nothing of the kind'.repeat(1000));
      await side.fails('tar', ['images', 'import', broken]);
      copyFileSync(docker, broken);
      await side.fails('platform', ['images', 'import', '--platform', 'windows/amd64', broken]);
    }),
  );

  await t.test('convert and push, one platform of several', () =>
    pair.alike(async (side) => {
      await side.ok(['images', 'pull', '--plain-http', feature], { shape });
      await side.ok(['images', 'convert', '--oci', '--platform', 'linux/amd64', feature, 'a.b/one:1']);
      await side.ok([
        'images',
        'convert',
        '--uncompress',
        '--platform',
        'linux/amd64',
        feature,
        'a.b/plain:1',
      ]);
      await side.ok(['images', 'ls']);
      const to = `${registry.host}/compare/${side.daemon.kind}:1`;
      side.hide(to, 'PUSHED');
      await side.ok(['images', 'push', '--plain-http', to, 'a.b/plain:1'], { shape: () => '' });
      const there = ['-n', `${side.daemon.namespace}-back`];
      await side.ok([...there, 'images', 'pull', '--plain-http', to], { shape });
      await side.ok([...there, 'snapshots', 'tree']);
      await side.fails('no/such', ['images', 'convert', '--oci', 'no/such:1', 'a.b/c:1']);
      await side.fails('no/such', ['images', 'tag', 'no/such:1', 'a.b/c:1']);
    }),
  );
});
