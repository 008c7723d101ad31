// Archives and forms of images, by our own command line, ctr and skopeo in turn: what one writes the others read.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { runTroupe, troupeOk } from '../fixtures/cli.ts';
import { startDaemon } from '../fixtures/daemon.ts';
import { featureImage } from '../fixtures/feature-image.ts';
import { busyboxImage, sha256 } from '../fixtures/image.ts';
import { readTar } from '../fixtures/memory-content.ts';
import { runOk } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { sortLabels } from './mask.ts';
import { noCollection, subject } from './side.ts';
import { listTree } from './tree.ts';

/** Headers and digests of an archive. Newer releases than this machine's ctr also say where images came from. */
async function entriesOf(path: string): Promise<unknown[]> {
  return (await readTar(readFileSync(path))).map(({ header, bytes }) => {
    const text = bytes.toString('latin1').replace(/"containerd.io\/distribution.source[^"]*":"[^"]*",?/g, '');
    const { name, mode, uid, gid, mtime, type } = header;
    return { name, mode, uid, gid, mtime, type, digest: sha256(Buffer.from(text, 'latin1')) };
  });
}
const policy = ['--insecure-policy', '--override-os', 'linux'];

/** Without what only lays the table out. */
const cells = (text: string): string[] =>
  sortLabels(text)
    .trimEnd()
    .split('\n')
    .map((line) => line.replace(/\s*\t\s*| {1,}$/g, ' ').trimEnd());

test('images: archives, forms and lists', async (t) => {
  await using registry = await startRegistry();
  const busybox = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
  const feature = await registry.push(await featureImage(), 'library/feature', 'v1');
  await using daemon = await startDaemon(subject, { config: noCollection });
  await using other = await startDaemon('containerd', { config: noCollection });
  const { address, namespace, directory, ctrOk } = daemon;
  const cli = (args: readonly string[], at = address, ns = namespace): Promise<string> =>
    troupeOk(['-a', at, '-n', ns, ...args], file('tmp-mounts'));
  const file = (name: string): string => join(directory, name);
  for (const name of [busybox, feature])
    await ctrOk(['images', 'pull', '--plain-http', '--label', 'a=b', name]);

  await t.test('our lists show what those of ctr show', async () => {
    const same = [
      ['images', 'ls'],
      ['images', 'ls', '-q'],
      ['images', 'check'],
      ['content', 'ls'],
      ['content', 'ls', '-q'],
      ['content', 'active'],
      ['snapshots', 'ls'],
      ['snapshots', 'tree'],
      ['snapshots', 'usage', '-b'],
      ['leases', 'ls'],
      ['namespaces', 'ls'],
    ];
    for (const args of same) {
      const masked = (text: string): string[] =>
        cells(text.replace(/Less than a second|About a minute|\d+ (?:second|minute)s?/g, 'AGE'));
      assert.deepEqual(masked(await cli(args)), masked(await ctrOk(args)), args.join(' '));
    }
  });

  await t.test('export: the same bytes as ctr writes; containerd, skopeo and we read them', async () => {
    await cli(['images', 'export', file('ours.tar'), feature]);
    await ctrOk(['images', 'export', file('ctr.tar'), feature]);
    assert.deepEqual(await entriesOf(file('ours.tar')), await entriesOf(file('ctr.tar')));
    await cli(['images', 'export', file('busybox.tar'), busybox]);
    for (const form of ['oci-archive', 'docker-archive']) {
      await runOk('skopeo', [...policy, 'copy', `${form}:${file('busybox.tar')}`, `dir:${file(form)}`]);
      assert.ok(existsSync(join(file(form), 'manifest.json')), form);
    }
    const there = ['-n', `${other.namespace}-2`];
    await other.ctrOk([...there, 'images', 'import', file('ours.tar')]);
    assert.equal((await other.ctrOk([...there, 'images', 'ls', '-q'])).trim(), feature);
  });

  await t.test('import: what ctr on containerd makes of an archive, we make of it', async () => {
    const ns = `${namespace}-2`;
    // docker's own form: manifests are made at import, and have the same digests.
    await runOk('skopeo', [
      ...[...policy, 'copy', '--src-tls-verify=false', `docker://${busybox}`],
      `docker-archive:${file('docker.tar')}:example.com/from/docker:1`,
    ]);
    for (const archive of ['docker.tar', 'ours.tar']) {
      await cli(['images', 'import', '--digests', file(archive)], address, ns);
      await other.ctrOk(['-n', ns, 'images', 'import', '--digests', file(archive)]);
    }
    // On a containerd that has no transfers we write the same.
    await cli(['images', 'import', '--digests', file('docker.tar')], other.address, `${ns}-cli`);
    assert.match(await other.ctrOk(['-n', `${ns}-cli`, 'images', 'check']), /complete \(2\/2\).*true/);
    const lists = ['images ls', 'images check', 'snapshots ls', 'content ls -q'];
    for (const list of lists) {
      const ours = cells(await ctrOk(['-n', ns, ...list.split(' ')]));
      assert.deepEqual(ours, cells(await other.ctrOk(['-n', ns, ...list.split(' ')])), list);
    }
    assert.match(
      await ctrOk(['-n', ns, 'run', '--rm', 'example.com/from/docker:1', 'x', 'echo', 'it runs']),
      /it runs/,
    );
  });

  await t.test('convert: gzip, zstd and plain unpack to the same files', async () => {
    const forms = [
      ['--uncompress', 'a.b/plain:1', /\.tar$/],
      ['--zstd', 'a.b/zstd:1', /\.tar\+zstd$/],
      ['--gzip', 'a.b/gzip:1', /\.tar\+gzip$/],
    ] as const;
    for (const [flag, name, type] of forms) {
      await cli(['images', 'convert', flag, feature, name]);
      const shown = JSON.parse(await cli(['images', 'inspect', name])) as {
        manifest: { layers: { mediaType: string }[] };
        platforms: string[];
      };
      for (const { mediaType } of shown.manifest.layers) assert.match(mediaType, type);
      assert.equal(shown.platforms.length, 1);
    }
    // ctr converts the plain form too, and both have the same digest.
    await ctrOk(['images', 'convert', '--uncompress', feature, 'a.b/ctr:1']);
    const digestOf = async (name: string): Promise<string> =>
      /sha256:\w+/.exec(await ctrOk(['images', 'ls', `name==${name}`]))![0];
    assert.equal(await digestOf('a.b/plain:1'), await digestOf('a.b/ctr:1'));
    // On another daemon, where no snapshot of the same layers is there to be taken.
    await cli(['images', 'export', file('zstd.tar'), 'a.b/zstd:1']);
    const ns = `${namespace}-3`;
    await cli(['images', 'import', file('zstd.tar')], address, ns);
    const trees = [];
    for (const [name, where] of [
      [feature, namespace],
      ['a.b/zstd:1', ns],
    ] as const) {
      mkdirSync(file(where));
      await cli(['images', 'mount', name, file(where)], address, where);
      try {
        trees.push(listTree(file(where)).join('\n'));
      } finally {
        await cli(['images', 'unmount', '--rm', file(where)], address, where);
      }
    }
    assert.equal(trees[0], trees[1]);
    assert.equal((await ctrOk(['leases', 'ls', '-q'])).trim(), '');
  });

  await t.test('single objects: fetched, changed by hand, sent, and let go', async () => {
    const digest = (await cli(['content', 'fetch', '-q', '--plain-http', busybox])).trim();
    const manifest = await cli(['content', 'get', digest]);
    assert.equal(await cli(['content', 'fetch-object', '--plain-http', busybox]), manifest);
    const { config, layers } = JSON.parse(manifest) as { config: { digest: string }; layers: unknown[] };
    const blob = await cli(['content', 'fetch-blob', '--plain-http', busybox, config.digest]);
    assert.equal(sha256(Buffer.from(blob, 'latin1')), config.digest);

    const editor = `sed -i s/application/APPLICATION/`;
    const refused = await runTroupe(
      [
        '-a',
        address,
        '-n',
        namespace,
        'content',
        'edit',
        '--editor',
        'truncate -s 3',
        '--validate',
        'json',
        digest,
      ],
      file('tmp-mounts'),
    );
    assert.match(refused.stderr, /no JSON/);
    const edited = (await cli(['content', 'edit', '--editor', editor, '--validate', 'json', digest])).trim();
    assert.equal(await cli(['content', 'get', edited]), manifest.replace(/application/, 'APPLICATION'));

    const type = 'application/vnd.oci.image.manifest.v1+json';
    const pushed = busybox.replace(':latest', ':sent');
    assert.equal(
      await cli(['content', 'push-object', '--plain-http', pushed, digest, type]),
      `${digest} pushed\n`,
    );
    assert.equal(await cli(['content', 'fetch-object', '--plain-http', pushed]), manifest);
    assert.equal(
      await cli(['content', 'push-object', '--plain-http', pushed, digest, type]),
      `${digest} exists\n`,
    );

    const shown = await cli(['content', 'prune', 'references', '--dry']);
    assert.ok(shown.includes(`${digest} containerd.io/gc.ref.content.l.0`), shown);
    assert.equal(await cli(['content', 'prune', 'references']), shown);
    assert.equal(await cli(['content', 'prune', 'references']), '');
    assert.equal(layers.length, 1);
  });

  await t.test('names, labels and what becomes of them', async () => {
    await cli(['images', 'tag', busybox, 'a.b/one:1', 'a.b/two:1']);
    assert.equal((await cli(['images', 'label', 'a.b/one:1', 'x=y', 'z'])).trim(), 'x=y,z=true');
    await cli(['images', 'rm', 'a.b/one:1', 'a.b/none:1', 'a.b/two:1']);
    const usage = await cli(['images', 'usage', feature]);
    assert.equal(usage.trim().split('\n').length, 5);
    const layer = (await cli(['snapshots', 'ls'])).split('\n').at(1)!.split(' ')[0]!;
    const packed = await cli(['snapshots', 'diff', '--keep', layer]);
    assert.match(packed, /^sha256:/);
  });
});
