// Plans of activations: what the daemon performs, what it makes before, and what it leaves to the caller.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planMounts } from '../../../../src/actors/mounts/plan.ts';
import { expandTemplate } from '../../../../src/actors/mounts/template.ts';
import { Mount } from '../../../../src/api/proto/gen/types/mount.ts';

const mount = (type: string, source = '', options: string[] = []): Mount =>
  Mount.create({ type, source, options });
const plan = (mounts: Mount[], temporary = false) =>
  planMounts(mounts, { temporary, handlers: new Set(['erofs']), pathOf: (point) => `/t/${point}` });
const shown = (mounts: readonly Mount[]) =>
  mounts.map(({ type, source, options }) => [type, source, ...options].join(' '));
const points = ({ active }: ReturnType<typeof plan>) =>
  active.map(({ mount: { type }, point }) => `${type} ${point}`);

test('nothing for the daemon to do is unimplemented', () => {
  for (const mounts of [[], [mount('bind', '/a')], [mount('overlay'), mount('ext4')]]) {
    assert.throws(() => plan(mounts), { code: 'unimplemented' });
  }
});

test('handled mounts and all before them are performed, the rest is for the caller', () => {
  const made = plan([mount('ext4', '/i'), mount('erofs', '/e'), mount('overlay', 'overlay', ['a=b'])]);
  assert.deepEqual(points(made), ['ext4 /t/1', 'erofs /t/0']);
  assert.deepEqual(shown(made.system), ['overlay overlay a=b']);
});

test('a transformed mount forces those before it and is left, rewritten, to the caller', () => {
  const made = plan([
    mount('bind', '/low', ['rbind']),
    mount('format/overlay', 'overlay', ['lowerdir={{ mount 0 }}:{{source 0}}']),
    mount('bind', '/more'),
  ]);
  assert.deepEqual(points(made), ['bind /t/0']);
  assert.deepEqual(shown(made.system), ['overlay overlay lowerdir=/t/0:/low', 'bind /more']);
  const alone = plan([mount('mkdir/bind', '/a', ['rbind', 'X-containerd.mkdir.path=/a/b'])]);
  assert.deepEqual(alone.active, []);
  assert.deepEqual(shown(alone.system), ['bind /a rbind']);
  assert.deepEqual(alone.steps, [{ kind: 'directory', path: '/a/b', mode: 0o700, owner: undefined }]);
});

test('a transformed mount before a handled one is performed', () => {
  const made = plan([mount('bind', '/d'), mount('format/bind', '{{ mount 0 }}/x'), mount('erofs', '/e')]);
  assert.deepEqual(points(made), ['bind /t/2', 'bind /t/1', 'erofs /t/0']);
  assert.deepEqual(made.system, []);
  const [, second] = made.active;
  assert.equal(second?.mount.source, '/t/2/x');
});

test('prefixes stack and apply from left to right', () => {
  const options = [
    'X-containerd.mkdir.path={{ mount 0 }}/upper:0755:1:2',
    'upperdir={{ mount 0 }}/upper',
    'X-containerd.mkdir.path=/w',
  ];
  const made = plan([
    mount('mkfs/ext4', '/i', ['X-containerd.mkfs.size=64MiB', 'loop']),
    mount('format/mkdir/overlay', 'o', options),
  ]);
  assert.deepEqual(made.steps, [
    { kind: 'filesystem', path: '/i', type: 'ext4', sizeBytes: 64 * 1024 * 1024, uuid: undefined },
    { kind: 'mount', mounts: [mount('ext4', '/i', ['loop'])], point: 0 },
    { kind: 'directory', path: '/t/0/upper', mode: 0o755, owner: { uid: 1, gid: 2 } },
    { kind: 'directory', path: '/w', mode: 0o700, owner: undefined },
  ]);
  assert.deepEqual(shown(made.system), ['overlay o upperdir=/t/0/upper']);
});

test('temporary activations are performed whole and answered with one bind mount', () => {
  const stack = plan([mount('erofs', '/e'), mount('overlay', 'o'), mount('tmpfs', 't')], true);
  assert.deepEqual(stack.steps, [
    { kind: 'mount', mounts: [mount('erofs', '/e')], point: 1 },
    { kind: 'mount', mounts: [mount('overlay', 'o'), mount('tmpfs', 't')], point: 0 },
  ]);
  assert.deepEqual(shown(stack.system), ['bind /t/0 rbind']);
  assert.deepEqual(shown(plan([mount('bind', '/a')], true).system), ['bind /t/0 rbind']);
  assert.deepEqual(shown(plan([mount('erofs', '/a')], true).system), ['bind /t/0 rbind']);
  assert.throws(() => plan([], true), { code: 'invalid-argument' });
});

test('settings that make no sense are refused', () => {
  const bad = [
    mount('mkdir/bind', '/a', ['X-containerd.mkdir.path=relative']),
    mount('mkdir/bind', '/a', ['X-containerd.mkdir.path=/a:999']),
    mount('mkdir/bind', '/a', ['X-containerd.mkdir.path=/a:0700:1']),
    mount('mkdir/bind', '/a', ['X-containerd.mkdir.path=/a:0700:1:x']),
    mount('mkdir/bind', '/a', ['X-containerd.mkdir.mode=1']),
    mount('mkfs/ext4', '/a'),
    mount('mkfs/ext4', '/a', ['X-containerd.mkfs.size=0']),
    mount('mkfs/ext4', '/a', ['X-containerd.mkfs.size=10 parsecs']),
    mount('mkfs/ext4', '/a', ['X-containerd.mkfs.size=1m', 'X-containerd.mkfs.fs=ntfs']),
    mount('mkfs/ext4', '/a', ['X-containerd.mkfs.size=1m', 'X-containerd.mkfs.uuid=7']),
    mount('mkfs/ext4', '/a', ['X-containerd.mkfs.size=1m', 'X-containerd.mkfs.label=7']),
    mount('format/bind', '{{ mount 0 }}'),
  ];
  for (const one of bad) assert.throws(() => plan([one]), { code: 'invalid-argument' }, JSON.stringify(one));
  assert.throws(() => plan(Array.from({ length: 256 }, () => mount('erofs'))), { code: 'invalid-argument' });
});

test('templates', () => {
  const before = ['a', 'b', 'c'].map((name) => ({
    source: `s${name}`,
    target: `t${name}`,
    point: `/${name}`,
  }));
  const expand = (text: string) => expandTemplate(text, before);
  assert.equal(expand('x={{source 1}},{{ target 2 }}{{- mount 0 -}}'), 'x=sb,tc/a');
  assert.equal(expand('{{ overlay 0 2 }} {{ overlay 2 0 }} {{overlay 1 1}}'), '/a:/b:/c /c:/b:/a /b');
  assert.equal(expand('plain }} text'), 'plain }} text');
  for (const bad of [
    '{{',
    '{{ mount }}',
    '{{ mount 3 }}',
    '{{ mount -1 }}',
    '{{ mount x }}',
    '{{ overlay 0 }}',
    '{{ overlay 0 3 }}',
    '{{ env "HOME" }}',
    '{{}}',
    '{{ mount 0 }} {{',
  ]) {
    assert.throws(() => expand(bad), { code: 'invalid-argument' }, bad);
  }
});

test('what the caller mounts itself is left to it as it is', () => {
  const options = {
    temporary: false,
    handlers: new Set(['erofs']),
    pathOf: (point: number) => `/t/${point}`,
  };
  const mounts = [
    mount('erofs', '/e'),
    mount('mkdir/bind', '/b', ['X-containerd.mkdir.path=/x']),
    mount('format/overlay'),
  ];
  assert.throws(() => planMounts(mounts, { ...options, allowed: ['erofs', 'mkdir/*', 'format/*'] }), {
    code: 'unimplemented',
  });
  const made = planMounts(mounts.slice(0, 2), { ...options, allowed: ['mkdir/*'] });
  assert.deepEqual(points(made), ['erofs /t/0']);
  assert.deepEqual(shown(made.system), ['mkdir/bind /b X-containerd.mkdir.path=/x']);
});
