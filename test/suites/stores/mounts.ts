// Contract of the Mounts service, with real mounts below the root of the daemon.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ImagesDefinition } from '../../../src/api/proto/gen/services/images/v1/images.ts';
import { LeasesDefinition } from '../../../src/api/proto/gen/services/leases/v1/leases.ts';
import { MountsDefinition } from '../../../src/api/proto/gen/services/mounts/v1/mounts.ts';
import type { Mount } from '../../../src/api/proto/gen/types/mount.ts';
import type { CallOptions } from '../../fixtures/grpc.ts';
import { mountsBelow } from '../../fixtures/scratch.ts';
import { blobOf } from './blobs.ts';
import { type Case, isRecent, labels, plain, refused, type Suite } from './subject.ts';

const since = { since: '2.2' } as const;

type Options = CallOptions & { temporary?: boolean; labels?: Map<string, string> };

const activate = async (
  { client, at }: Case,
  name: string,
  mounts: Partial<Mount>[],
  options: Options = {},
) => {
  const { temporary = false, labels: own = new Map(), ...call } = options;
  const request = { name, mounts, temporary, labels: own };
  return (await client.call(MountsDefinition, 'activate', request, { ...at, ...call })).info!;
};
const deactivate = ({ client, at }: Case, name: string) =>
  client.call(MountsDefinition, 'deactivate', { name }, at);
const info = async ({ client, at }: Case, name: string) =>
  (await client.call(MountsDefinition, 'info', { name }, at)).info!;
const names = async ({ client, at }: Case) =>
  (await client.list(MountsDefinition, 'list', { filters: ['name==nonesuch'] }, at)).map(
    ({ info: one }) => one?.name,
  );
const collect = async ({ client, at }: Case) => {
  await client.call(LeasesDefinition, 'create', { id: 'collector' }, at);
  await client.call(LeasesDefinition, 'delete', { id: 'collector', sync: true }, at);
};

/** Why this machine cannot mount images that the program makes; empty when it can. */
function withoutImages(program: string): string {
  if (!existsSync('/dev/loop-control')) return 'this machine has no loop devices';
  const found = ['/usr/sbin', '/sbin', '/usr/bin', '/bin'].some((directory) =>
    existsSync(join(directory, program)),
  );
  return found ? '' : `${program} is not installed`;
}

/** A directory below the root of the daemon with one file in it. */
function tree({ subject, ns }: Case, name: string): string {
  const directory = join(subject.root, 'contract', ns, name);
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, name), name);
  return directory;
}

/** A bind mount that is performed, since the one behind it is transformed. */
const twice = (given: Case): Partial<Mount>[] => [
  { type: 'bind', source: tree(given, 'low'), options: ['rbind', 'ro'] },
  { type: 'format/bind', source: '{{ mount 0 }}', options: ['rbind'] },
];
const mountedBelow = ({ subject }: Case) =>
  mountsBelow(join(subject.root, 'io.containerd.mount-manager.v1.bolt'));

export async function mountsSuite(suite: Suite): Promise<void> {
  await suite.test(
    'what needs nothing of the daemon is left to the caller',
    async (given) => {
      const mounts = [
        { type: 'bind', source: tree(given, 'a'), options: ['rbind'] },
        { type: 'tmpfs', source: 'x' },
      ];
      await refused(activate(given, 'm', mounts), 'UNIMPLEMENTED', /: not implemented$/);
      assert.deepEqual(await names(given), []);
    },
    since,
  );

  await suite.test(
    'mounts before a transformed one are performed, and it is handed back rewritten',
    async (given) => {
      const made = await activate(given, 'any name/at:all', twice(given), { labels: labels({ a: 'b' }) });
      assert.equal(made.name, 'any name/at:all');
      const [active, ...more] = made.active;
      assert.deepEqual([more, active?.mount?.type, active?.mount?.source], [[], 'bind', tree(given, 'low')]);
      isRecent(active?.mountedAt);
      assert.equal(readFileSync(join(active!.mountPoint, 'low'), 'utf8'), 'low');
      assert.throws(() => writeFileSync(join(active!.mountPoint, 'low'), 'x'), { code: 'EROFS' });
      assert.deepEqual(
        made.system.map(({ type, source, options }) => [type, source, options]),
        [['bind', active!.mountPoint, ['rbind']]],
      );
      const told = await info(given, 'any name/at:all');
      assert.deepEqual(
        [told.active[0]?.mount?.type, told.active[0]?.mount?.source, told.active[0]?.mountPoint],
        ['bind', '', active!.mountPoint],
      );
      assert.deepEqual(told.active[0]?.mountedAt, active?.mountedAt);
      assert.deepEqual(plain(told.labels), { a: 'b' });
      assert.deepEqual(await names(given), ['any name/at:all']);
      await refused(activate(given, 'any name/at:all', twice(given)), 'ALREADY_EXISTS', /: already exists$/);
      await deactivate(given, 'any name/at:all');
      assert.deepEqual([await names(given), existsSync(active!.mountPoint)], [[], false]);
    },
    since,
  );

  await suite.test(
    'who is not there is not found; nothing can be updated',
    async (given) => {
      await refused(info(given, 'm'), 'NOT_FOUND', /: not found$/);
      await refused(deactivate(given, 'm'), 'NOT_FOUND', /: not found$/);
      await refused(
        given.client.call(MountsDefinition, 'update', { info: { name: 'm' } }, given.at),
        'UNIMPLEMENTED',
      );
      await refused(activate(given, '', twice(given)), 'INVALID_ARGUMENT');
    },
    since,
  );

  await suite.test(
    'a failure leaves nothing mounted',
    async (given) => {
      const missing = { type: 'bind', source: '/nonexistent/source', options: ['rbind'] };
      const [low, top] = twice(given);
      const failed = await activate(given, 'm', [low!, missing, top!]).then(
        () => 'mounted',
        (error: Error) => error.message,
      );
      assert.match(failed, /nonexistent/);
      assert.deepEqual([await names(given), mountedBelow(given)], [[], []]);
      await activate(given, 'm', twice(given));
      await deactivate(given, 'm');
    },
    since,
  );

  await suite.test(
    'temporary: everything is mounted, one bind mount is handed back',
    async (given) => {
      const [one, two] = [tree(given, 'one'), tree(given, 'two')];
      const overlay = { type: 'overlay', source: 'overlay', options: [`lowerdir=${one}:${two}`] };
      const { system } = await activate(given, 'm', [overlay], { temporary: true });
      assert.deepEqual([system.length, system[0]?.type, system[0]?.options], [1, 'bind', ['rbind']]);
      assert.equal(readFileSync(join(system[0]!.source, 'two'), 'utf8'), 'two');
      await deactivate(given, 'm');
      assert.deepEqual(mountedBelow(given), []);
    },
    since,
  );

  await suite.test(
    'directories and file systems are made on the way, below the root of the daemon only',
    async (given) => {
      const directory = tree(given, 'made');
      const image = join(directory, 'image');
      const fs = { type: 'mkfs/ext4', source: image, options: ['X-containerd.mkfs.size=8MiB', 'loop'] };
      const overlay = {
        type: 'format/mkdir/overlay',
        source: 'overlay',
        options: [
          'X-containerd.mkdir.path={{ mount 0 }}/upper:0755',
          'X-containerd.mkdir.path={{ mount 0 }}/work',
          'upperdir={{ mount 0 }}/upper',
          'workdir={{ mount 0 }}/work',
          `lowerdir=${directory}`,
        ],
      };
      const { active, system } = await activate(given, 'm', [fs, overlay]);
      const point = active[0]!.mountPoint;
      assert.equal(statSync(image).size, 8 * 1024 * 1024);
      assert.equal(statSync(join(point, 'upper')).mode & 0o777, 0o755);
      assert.deepEqual(system[0]?.options, [
        `upperdir=${point}/upper`,
        `workdir=${point}/work`,
        `lowerdir=${directory}`,
      ]);
      await deactivate(given, 'm');
      const outside = {
        type: 'mkdir/bind',
        source: directory,
        options: ['rbind', 'X-containerd.mkdir.path=/tmp/outside/of/root'],
      };
      await refused(activate(given, 'm', [outside]), 'UNIMPLEMENTED');
      await refused(
        activate(given, 'm', [{ ...fs, source: '/tmp/outside-image' }, overlay]),
        'UNIMPLEMENTED',
      );
      assert.ok(!existsSync('/tmp/outside') && !existsSync('/tmp/outside-image'));
    },
    { ...since, skip: withoutImages('mkfs.ext4') },
  );

  await suite.test(
    'erofs images are mounted by the daemon',
    async (given) => {
      const image = join(tree(given, 'images'), 'layer.erofs');
      execFileSync('mkfs.erofs', [image, tree(given, 'content')], { stdio: 'ignore' });
      const { active, system } = await activate(given, 'm', [
        { type: 'erofs', source: image, options: ['ro'] },
      ]);
      assert.deepEqual([active[0]?.mount?.type, system], ['erofs', []]);
      assert.equal(readFileSync(join(active[0]!.mountPoint, 'content'), 'utf8'), 'content');
      await deactivate(given, 'm');
      assert.deepEqual(mountedBelow(given), []);
    },
    { ...since, skip: withoutImages('mkfs.erofs') },
  );

  await suite.test(
    'a collection unmounts what neither lease nor label keeps',
    async (given) => {
      const { client, at } = given;
      await client.call(LeasesDefinition, 'create', { id: 'l' }, at);
      const target = { digest: blobOf('x').digest, size: 1n, mediaType: 'a/b' };
      const refers = labels({ 'containerd.io/gc.ref.mount.0': 'referred' });
      await client.call(ImagesDefinition, 'create', { image: { name: 'i', target, labels: refers } }, at);
      const kept = labels({ 'containerd.io/gc.bref.image': 'i' });
      await activate(given, 'leased', twice(given), { lease: 'l' });
      await activate(given, 'back', twice(given), { labels: kept });
      await activate(given, 'referred', twice(given));
      await activate(given, 'loose', twice(given));
      await activate(given, 'other lease', twice(given), { lease: 'nonesuch' });
      await collect(given);
      assert.deepEqual(await names(given), ['back', 'leased', 'referred']);
      assert.equal(mountedBelow(given).length, 3);
      await client.call(ImagesDefinition, 'delete', { name: 'i' }, at);
      await client.call(LeasesDefinition, 'delete', { id: 'l', sync: true }, at);
      assert.deepEqual([await names(given), mountedBelow(given)], [[], []]);
    },
    since,
  );
}
