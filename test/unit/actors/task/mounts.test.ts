// Special mounts of tasks: what goes to the mount manager, what runtimes may keep for themselves, what is given back.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MountsActorProtocol } from '../../../../src/actors/mounts/protocol.ts';
import { createTaskMounts } from '../../../../src/actors/task/mounts.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import { RuntimeInfo } from '../../../../src/api/proto/gen/types/introspection.ts';
import { Mount } from '../../../../src/api/proto/gen/types/mount.ts';
import type { ActorRef } from '../../../../src/supervisor/types.ts';
import { memoryLog } from './harness.ts';

const key = { namespace: 'n', id: 'c' };
const never = new AbortController().signal;
const mount = (type: string, source = '') => Mount.create({ type, source });
const launch = (spec: object = {}, runtime = 'io.example.v1') => ({
  runtime,
  options: undefined,
  spec: Buffer.from(JSON.stringify(spec)),
});

/** A mount manager that keeps what it is told, and a runtime that says what it is told to say. */
function world(info: Partial<RuntimeInfo> | Error = {}) {
  const kept = new Map<string, Mount[]>();
  const requests: MountsActorProtocol['activate']['request'][] = [];
  let asked = 0;
  const call = async (op: string, request: MountsActorProtocol['activate']['request']) => {
    if (op === 'deactivate') {
      if (!kept.delete(request.name)) throw fail('not-found', 'mount');
      return undefined;
    }
    requests.push(request);
    if (kept.has(request.name)) throw fail('already-exists', 'mount');
    const system = [mount('bind', `/performed/${request.name}`)];
    kept.set(request.name, system);
    return { active: [], system };
  };
  const mounts = createTaskMounts({
    mounts: { path: 'mounts', call, cast() {} } as unknown as ActorRef<MountsActorProtocol>,
    reader: {
      mount(_namespace, name) {
        const system = kept.get(name);
        return system && { id: 1, state: 'active', lease: '', labels: {}, active: [], system };
      },
    },
    handlers: new Set(['erofs']),
    runtime: {
      resolve: async (name) => `/bin/${name}`,
      async info() {
        asked++;
        if (info instanceof Error) throw info;
        return RuntimeInfo.create(info);
      },
    },
    log: memoryLog([]),
  });
  return { mounts, kept, requests, asked: () => asked };
}

test('plain mounts pass through, and nobody is asked', async () => {
  const { mounts, requests, asked } = world();
  const rootfs = [mount('bind', '/a'), mount('overlay')];
  assert.equal(await mounts.activate(key, launch(), rootfs, never), rootfs);
  await mounts.deactivate(key);
  assert.deepEqual([requests.length, asked()], [0, 0]);
});

test('special mounts are performed under the id of the task, for its container, until it is deleted', async () => {
  const { mounts, requests, kept } = world();
  for (const type of ['erofs', 'format/bind', 'mkdir/bind', 'mkfs/ext4']) {
    const left = await mounts.activate(key, launch(), [mount(type)], never);
    assert.deepEqual(left, [mount('bind', '/performed/c')]);
    await mounts.deactivate(key);
    assert.equal(kept.size, 0);
  }
  assert.deepEqual(requests[0]?.labels, new Map([['containerd.io/gc.bref.container', 'c']]));
  assert.equal(requests[0]?.temporary, false);
});

test('what an earlier task of the id has left, or a client has made, is used again', async () => {
  const { mounts, requests } = world();
  await mounts.activate(key, launch(), [mount('erofs')], never);
  const again = await mounts.activate(key, launch(), [mount('erofs')], never);
  assert.deepEqual(again, [mount('bind', '/performed/c')]);
  assert.equal(requests.length, 2);
});

test('a runtime is asked once what it mounts itself; one that does not say mounts nothing', async () => {
  const annotations = new Map([['containerd.io/runtime-allow-mounts', 'erofs, mkdir/*']]);
  const { mounts, requests, asked } = world({ annotations });
  for (let round = 0; round < 2; round++) {
    await mounts.activate(key, launch(), [mount('erofs')], never);
    await mounts.deactivate(key);
  }
  assert.equal(asked(), 1);
  assert.deepEqual(requests[0]?.allowed, ['erofs', 'mkdir/*']);
  for (const runtime of ['io.containerd.runc.v2', 'io.containerd.troupe.v1']) {
    await mounts.activate(key, launch({}, runtime), [mount('erofs')], never);
    await mounts.deactivate(key);
    assert.deepEqual(requests.at(-1)?.allowed, []);
  }
  assert.equal(asked(), 1);
  const silent = world(fail('unimplemented', 'no -info'));
  await silent.mounts.activate(key, launch(), [mount('erofs')], never);
  assert.deepEqual(silent.requests[0]?.allowed, []);
});

test('mounts with mapped ids need a runtime that says that it maps them', async () => {
  const mapped = launch({
    mounts: [{ destination: '/m', uidMappings: [{ containerID: 0, hostID: 1, size: 1 }] }],
  });
  const features = (value: unknown) => ({
    features: { typeUrl: 'f', value: Buffer.from(JSON.stringify(value)) },
  });
  const idmap = (enabled: unknown) => features({ linux: { mountExtensions: { idmap: { enabled } } } });
  const activate = (info: Partial<RuntimeInfo> | Error, spec = mapped) =>
    world(info).mounts.activate(key, spec, [], never);
  await activate(idmap(true));
  await assert.rejects(activate(idmap(false)), {
    code: 'unknown',
    message: /mountExtensions\.idmap disabled/,
  });
  await assert.rejects(activate(features({})), {
    code: 'unknown',
    message: /no entry mountExtensions\.idmap/,
  });
  await assert.rejects(activate({}), { code: 'unknown', message: /no entry mountExtensions\.idmap/ });
  await assert.rejects(activate(fail('unimplemented', 'no -info')), {
    code: 'unknown',
    message: /"io\.example\.v1" does not say what it can do .*no -info/,
  });
  // Mappings of the container itself are another thing, and what is no JSON is the runtime's to refuse.
  await activate({}, launch({ linux: { uidMappings: [{}] }, mounts: [{ uidMappings: [] }] }));
  await activate({}, { ...mapped, spec: Buffer.from('{"uidMappings"') });
});
