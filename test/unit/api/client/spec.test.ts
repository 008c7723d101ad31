// Specs: containerd's defaults, the image's config, the caller's wishes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  createSpec,
  decodeSpec,
  encodeSpec,
  mergeEnv,
  type SpecOptions,
} from '../../../../src/api/client/spec.ts';
import { type ImageConfig, parseImageConfig } from '../../../../src/api/model/oci.ts';

const image = (config: Record<string, unknown>): ImageConfig =>
  parseImageConfig(Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', config })), 'c');

const make = (config: Record<string, unknown>, options: SpecOptions = {}) =>
  createSpec({
    ...{ namespace: 'n', id: 'i', config: image(config), options },
    user: { uid: 1, gid: 2, additionalGids: [2, 3] },
  });

test('the defaults', () => {
  const spec = make({ Cmd: ['sh'] });
  assert.deepEqual(spec.process.args, ['sh']);
  assert.deepEqual(spec.process.env, ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin']);
  assert.equal(spec.process.cwd, '/');
  assert.deepEqual(spec.process.user, { uid: 1, gid: 2, additionalGids: [2, 3] });
  assert.equal(spec.process.noNewPrivileges, true);
  assert.equal(spec.process.capabilities?.['bounding']?.length, 14);
  assert.deepEqual(spec.process.capabilities?.['inheritable'], undefined);
  assert.equal(spec.linux.cgroupsPath, '/n/i');
  assert.deepEqual(
    spec.linux.namespaces.map(({ type }) => type),
    ['pid', 'ipc', 'uts', 'mount', 'network'],
  );
  assert.deepEqual(
    spec.mounts.map(({ destination }) => destination),
    ['/proc', '/dev', '/dev/pts', '/dev/shm', '/dev/mqueue', '/sys', '/run'],
  );
  assert.equal(spec.linux.maskedPaths?.length, 11);
});

test('entrypoint, command and arguments', () => {
  const both = { Entrypoint: ['e'], Cmd: ['c'] };
  assert.deepEqual(make(both).process.args, ['e', 'c']);
  assert.deepEqual(make(both, { args: ['a', 'b'] }).process.args, ['e', 'a', 'b']);
  assert.deepEqual(make(both, { entrypoint: ['x'] }).process.args, ['x']);
  assert.deepEqual(make(both, { entrypoint: ['x'], args: ['a'] }).process.args, ['x', 'a']);
  assert.throws(() => make({}), { code: 'invalid-argument' });
});

test('environment, directory, terminal, network, root, and the last word', () => {
  const spec = make(
    { Env: ['A=1', 'B=2', 'C=x=y'], WorkingDir: '/w', Cmd: ['sh'] },
    {
      env: ['B=3', 'D=4', 'A'],
      terminal: true,
      hostNetwork: true,
      readOnly: true,
      hostname: 'h',
      mounts: [{ destination: '/mnt', type: 'bind', source: '/srv', options: ['rbind'] }],
      customize: (all) => {
        all.annotations = { k: 'v' };
      },
    },
  );
  assert.deepEqual(spec.process.env, ['B=3', 'C=x=y', 'TERM=xterm', 'D=4']);
  assert.equal(spec.process.cwd, '/w');
  assert.equal(spec.process.terminal, true);
  assert.equal(spec.root.readonly, true);
  assert.equal(spec.hostname, 'h');
  assert.ok(!spec.linux.namespaces.some(({ type }) => type === 'network'));
  assert.ok(spec.mounts.some(({ destination }) => destination === '/etc/resolv.conf'));
  assert.ok(spec.mounts.some(({ destination }) => destination === '/mnt'));
  assert.deepEqual(spec.annotations, { k: 'v' });
  assert.deepEqual(decodeSpec(encodeSpec(spec), 'i'), JSON.parse(JSON.stringify(spec)));
  assert.throws(() => decodeSpec(undefined, 'i'), { code: 'failed-precondition' });
  assert.throws(() => decodeSpec({ typeUrl: '', value: Buffer.from('{') }, 'i'), { code: 'data-loss' });
  assert.deepEqual(mergeEnv(['__proto__=1'], ['__proto__=2']), ['__proto__=2']);
});
