// Content, snapshots, leases, namespaces and plugins by ctr on both daemons, without any image tooling above them.
import { join } from 'node:path';
import { test } from 'node:test';
import { buildLayer, busyboxImage, sha256 } from '../fixtures/image.ts';
import { runOk } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { lastFrame } from './mask.ts';
import { startPair } from './side.ts';

const blob = 'some bytes that are kept under their digest\n';
const digest = sha256(Buffer.from(blob));
const absent = sha256(Buffer.from('absent'));

test('stores: the same commands answer alike on both daemons', async (t) => {
  await using registry = await startRegistry();
  const image = await busyboxImage();
  const ref = await registry.push(image, 'library/busybox', 'latest');
  const layer = image.manifests[0]!.layers[0]!;
  await using pair = await startPair();

  await t.test('content', () =>
    pair.alike(async (side) => {
      await side.ok(['content', 'ingest', 'ref-1'], { input: blob });
      await side.ok(
        ['content', 'ingest', '--expected-digest', digest, '--expected-size', `${blob.length}`, 'ref-2'],
        {
          input: blob,
        },
      );
      await side.fails('', ['content', 'ingest', '--expected-digest', absent, 'ref-3'], { input: blob });
      await side.ok(['content', 'ls']);
      await side.ok(['content', 'get', digest]);
      await side.ok(['content', 'label', digest, 'a=1', 'b=2', 'containerd.io/gc.root=yes']);
      await side.ok(['content', 'ls']);
      await side.ok(['content', 'ls', 'labels.a==1']);
      await side.ok(['content', 'ls', 'labels.a==2']);
      await side.ok(['content', 'label', digest, 'a=']);
      await side.ok(['content', 'ls']);
      await side.fails(absent, ['content', 'get', absent]);
      await side.fails(absent, ['content', 'label', absent, 'a=1']);
      await side.ok(['content', 'fetch', '--plain-http', ref], { shape: lastFrame });
      await side.ok(['content', 'ls']);
      await side.ok(['images', 'check']);
      await side.ok(['content', 'rm', digest]);
      await side.ctr(['content', 'rm', absent], { shape: () => '' });
      await side.ok(['content', 'ls', '-q']);
    }),
  );

  await t.test('snapshots', () =>
    pair.alike(async (side) => {
      const target = join(side.daemon.directory, 'target');
      await side.ok(['snapshots', 'unpack', image.manifests[0]!.manifest.digest], { shape: lastFrame });
      for (const snapshotter of ['overlayfs', 'native']) {
        const snapshots = ['snapshots', '--snapshotter', snapshotter];
        const hide = (text: string): string => text.replace(/snapshots\/\d+/g, 'snapshots/N');
        await side.ok([...snapshots, 'prepare', 'active']);
        await side.ok([...snapshots, 'mounts', target, 'active'], { shape: hide });
        await side.ok([...snapshots, 'ls']);
        await side.ok([...snapshots, 'info', 'active']);
        await side.ok([...snapshots, 'label', 'active', 'a=1', 'b=2']);
        await side.ok([...snapshots, 'info', 'active']);
        await side.fails('active', [...snapshots, 'prepare', 'active']);
        await side.ok([...snapshots, 'commit', 'committed', 'active']);
        await side.fails('committed', [...snapshots, 'mounts', target, 'committed']);
        await side.ok([...snapshots, 'info', 'committed']);
        await side.ok([...snapshots, 'prepare', '--target', target, 'child', 'committed'], { shape: hide });
        await side.ok([...snapshots, 'view', 'looked at', 'committed'], { shape: hide });
        await side.ok([...snapshots, 'ls']);
        await side.ok([...snapshots, 'tree']);
        await side.fails('committed', [...snapshots, 'rm', 'committed']);
        await side.fails('absent', [...snapshots, 'rm', 'absent']);
        await side.fails('absent', [...snapshots, 'prepare', 'orphan', 'absent']);
        await side.fails('', [...snapshots, 'prepare', 'orphan', 'child']);
        await side.ok([...snapshots, 'usage', '-b', 'committed']);
        // Nothing keeps the view from a collection, so it goes before anything could start one.
        for (const key of ['looked at', 'child', 'committed']) await side.ok([...snapshots, 'rm', key]);
        await side.ok([...snapshots, 'ls']);
        await side.ok([...snapshots, 'prepare', 'active']);
        await side.ok([...snapshots, 'rm', 'active']);
      }
      await side.fails('nonesuch', ['snapshots', '--snapshotter', 'nonesuch', 'prepare', 'x']);
    }),
  );

  await t.test('snapshots diff: the changes of a container as a layer', () =>
    pair.alike(async (side) => {
      await side.ok(['images', 'pull', '--plain-http', ref], { shape: lastFrame });
      await side.ctr([
        'run',
        ref,
        'changer',
        'sh',
        '-c',
        'echo changed > /etc/hostname; rm /etc/group; ln /bin/busybox /hard',
      ]);
      await side.ok(['snapshots', 'usage', 'changer']);
      const { address, namespace, directory } = side.daemon;
      const file = join(directory, 'diff.tar');
      const diff = ['snapshots', 'diff', '--media-type', 'application/vnd.oci.image.layer.v1.tar', 'changer'];
      await runOk('bash', [
        '-c',
        'file=$1; shift; ctr "$@" > "$file"',
        'bash',
        file,
        '-a',
        address,
        '-n',
        namespace,
        ...diff,
      ]);
      const listing = await runOk('tar', ['-tvf', file, '--numeric-owner', '--utc']);
      side.note('diff', {
        code: 0,
        stdout: listing.replace(/ (?!2020)\d{4}-[\d-]+ [\d:]+ /g, ' NOW '),
        stderr: '',
      });
      await side.ok(['containers', 'rm', 'changer']);
    }),
  );

  await t.test('a layer applied by the daemon gives its diff id', () =>
    pair.alike(async (side) => {
      const extra = await buildLayer([{ name: 'one', content: '1' }], 'zstd');
      side.note('diff id', { code: 0, stdout: `${layer.diffId} ${extra.diffId}`, stderr: '' });
      await side.ok(['content', 'ls', `labels."containerd.io/uncompressed"==${layer.diffId}`]);
    }),
  );

  await t.test('leases', () =>
    pair.alike(async (side) => {
      await side.ok(['leases', 'create', '--id', 'mine', '--expires', '0', 'a=b']);
      await side.ok(['leases', 'ls']);
      await side.ok(['leases', 'ls', '-q']);
      await side.ok(['leases', 'ls', 'labels.a==b']);
      await side.ok(['leases', 'ls', 'labels.a==c']);
      await side.ok(['leases', 'create', '--id', 'expires']);
      await side.ok(['leases', 'ls']);
      await side.fails('mine', ['leases', 'create', '--id', 'mine']);
      await side.ok(['leases', 'rm', 'mine']);
      await side.ctr(['leases', 'rm', 'mine'], { shape: () => '' });
      await side.ok(['leases', 'rm', 'expires']);
      await side.ok(['leases', 'ls']);
    }),
  );

  await t.test('namespaces', () =>
    pair.alike(async (side) => {
      const other = `${side.daemon.namespace}-other`;
      await side.ok(['namespaces', 'create', other, 'a=b']);
      await side.ok(['namespaces', 'ls']);
      await side.ok(['namespaces', 'ls', '-q']);
      await side.fails(other, ['namespaces', 'create', other]);
      await side.ok(['namespaces', 'label', other, 'c=d', 'a=']);
      await side.ok(['namespaces', 'ls']);
      await side.ok(['namespaces', 'rm', other]);
      await side.fails(other, ['namespaces', 'rm', other]);
      await side.fails(side.daemon.namespace, ['namespaces', 'rm', side.daemon.namespace]);
      await side.fails('not/valid', ['namespaces', 'create', 'not/valid']);
      await side.ok(['namespaces', 'ls']);
    }),
  );

  await t.test('what the daemon says of itself', () =>
    pair.alike(async (side) => {
      // The two have different parts; those that clients ask for must be there and well.
      const asked =
        /^(TYPE|\S+\.(snapshotter|differ|content|metadata|gc|event|runtime)\.v[12] +(overlayfs|native|walking|content|bolt|scheduler|exchange|task)) .*$/;
      const shape = (text: string): string =>
        text
          .split('\n')
          .filter((line) => asked.test(line))
          .sort()
          .join('\n');
      await side.ok(['plugins', 'ls'], { shape });
      await side.ok(['plugins', 'ls', 'type==io.containerd.snapshotter.v1,id==overlayfs']);
      await side.ok(['plugins', 'ls', 'id==nonesuch']);
      const version = await side.daemon.ctr(['version']);
      // ctr warns of a daemon whose version is not its own.
      side.note('version', {
        ...version,
        stdout: version.stdout.replace(/(Version|Revision):.*/g, '$1'),
        stderr: '',
      });
      await side.ctr(['info']);
    }),
  );
});
