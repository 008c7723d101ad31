// The Tasks service over shims in memory: records first, then tasks; codes and shapes as clients expect them.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { tasksService } from '../../../../src/api/grpc/tasks.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import type { CheckpointStore } from '../../../../src/api/model/ports/checkpoint.ts';
import type { Any } from '../../../../src/api/proto/gen/google/protobuf/any.ts';
import * as wire from '../../../../src/api/proto/gen/runtime/task/v3/shim.ts';
import { Container } from '../../../../src/api/proto/gen/services/containers/v1/containers.ts';
import * as tasks from '../../../../src/api/proto/gen/services/tasks/v1/tasks.ts';
import { Descriptor } from '../../../../src/api/proto/gen/types/descriptor.ts';
import { CheckpointOptions, Options } from '../../../../src/api/proto/gen/types/runc/options/oci.ts';
import { Status } from '../../../../src/api/proto/gen/types/task/task.ts';
import { createFake, namespace, type ShimHandlers, silence } from '../../actors/task/fake.ts';

type Method = keyof tasks.TasksDefinition['methods'];
type RequestOf<M extends Method> = ReturnType<tasks.TasksDefinition['methods'][M]['requestType']['decode']>;
type ResponseOf<M extends Method> = ReturnType<tasks.TasksDefinition['methods'][M]['responseType']['decode']>;

async function setUp(t: TestContext, shim: ShimHandlers = {}) {
  const fake = await createFake(t, { shim, taskTimeouts: { callMs: 5000, slowCallMs: 5000 } });
  const records = new Map<string, Container>();
  const addContainer = (id: string, runtimeOptions?: Any) => {
    const container = Container.create({ id });
    records.set(id, {
      ...container,
      runtime: { name: 'io.fake.v1', options: runtimeOptions },
      spec: { typeUrl: 'spec', value: Buffer.from('{}') },
    });
  };
  const removed: string[] = [];
  const temporary = (path: string) => ({
    path,
    async [Symbol.asyncDispose]() {
      removed.push(path);
    },
  });
  const checkpoints: CheckpointStore = {
    directory: async () => temporary('/tmp/checkpoint'),
    unpack: async () => temporary('/tmp/restore'),
    store: async (_namespace, { path, spec }) => [
      Descriptor.create({ mediaType: path }),
      Descriptor.create({ mediaType: spec?.typeUrl ?? '' }),
    ],
  };
  const service = tasksService({
    tasks: fake.tasks,
    container: (ns, id) => {
      const record = ns === namespace ? records.get(id) : undefined;
      return record === undefined ? undefined : Container.encode(record).finish();
    },
    checkpoints,
    sandboxAddress: async () => undefined,
    nowNs: () => 7_000_000_000n,
    stateTimeoutMs: 40,
  });
  const signal = new AbortController().signal;
  async function call<M extends Method>(method: M, request: Partial<RequestOf<M>>): Promise<ResponseOf<M>> {
    const { name, requestType } = tasks.TasksDefinition.methods[method];
    const bound = service.methods.find(({ path }) => path.endsWith(`/${name}`));
    const full = Object.assign(requestType.create({} as never), request);
    const context = { namespace, lease: undefined, signal, deadlineMs: Number.POSITIVE_INFINITY };
    return (await bound?.handler?.(full, context as never)) as ResponseOf<M>;
  }
  return { fake, call, addContainer, removed };
}

const taskMethods = [
  'start',
  'delete',
  'get',
  'kill',
  'resizePty',
  'closeIO',
  'pause',
  'resume',
  'listPids',
  'checkpoint',
  'wait',
] as const;

test('without a record or without a task: not-found, whatever is asked', async (t) => {
  const { call, addContainer } = await setUp(t);
  for (const containerId of ['web', 'a/b', '']) {
    for (const method of taskMethods)
      await assert.rejects(call(method, { containerId }), { code: 'not-found' });
  }
  await assert.rejects(call('create', { containerId: 'web' }), { code: 'not-found' });
  await assert.rejects(call('create', { containerId: 'a/b' }), { code: 'invalid-argument' });
  addContainer('web');
  for (const method of taskMethods) {
    await assert.rejects(call(method, { containerId: 'web' }), { code: 'not-found' }, method);
  }
  assert.deepEqual((await call('list', {})).tasks, []);
});

test('a task through its life, in the shapes of the API', async (t) => {
  const { call, addContainer, fake } = await setUp(t);
  addContainer('web');
  assert.deepEqual(await call('create', { containerId: 'web' }), { containerId: 'web', pid: 100 });
  await assert.rejects(call('create', { containerId: 'web' }), { code: 'already-exists' });
  assert.equal((await call('start', { containerId: 'web' })).pid, 100);
  const { process } = await call('get', { containerId: 'web' });
  assert.deepEqual(
    [process?.containerId, process?.id, process?.pid, process?.status, process?.exitedAt],
    ['', 'web', 100, Status.RUNNING, { seconds: 0n, nanos: 0 }],
  );
  assert.deepEqual((await call('list', { filter: 'nonsense((' })).tasks, [process]);
  assert.equal((await call('listPids', { containerId: 'web' })).processes[0]?.pid, 100);
  await call('closeIO', { containerId: 'web' });
  assert.ok(!fake.calls.includes('web.closeIO'));
  await call('kill', { containerId: 'web', signal: 9 });
  assert.equal((await call('wait', { containerId: 'web' })).exitStatus, 137);
  const deleted = await call('delete', { containerId: 'web' });
  assert.deepEqual([deleted.id, deleted.pid, deleted.exitStatus], ['', 100, 137]);
  await assert.rejects(call('delete', { containerId: 'web' }), { code: 'not-found' });
});

test('state that nobody knows, and state that nobody has', async (t) => {
  let state: () => Promise<wire.StateResponse> | wire.StateResponse = silence;
  const { call, addContainer } = await setUp(t, { state: () => state() });
  addContainer('web');
  await call('create', { containerId: 'web' });
  await assert.rejects(call('get', { containerId: 'web' }), { code: 'deadline-exceeded' });
  assert.deepEqual((await call('list', {})).tasks, []);
  state = () => {
    throw fail('internal', 'broken');
  };
  const { process } = await call('get', { containerId: 'web' });
  assert.deepEqual([process?.id, process?.pid, process?.status], ['web', 0, Status.UNKNOWN]);
  assert.equal((await call('list', {})).tasks.length, 1);
});

test('task options replace those of the runtime and must be of the one type', async (t) => {
  const seen: (Any | undefined)[] = [];
  const checkpoints: string[] = [];
  const { call, addContainer, removed } = await setUp(t, {
    create: ({ options, checkpoint }) => {
      seen.push(options);
      checkpoints.push(checkpoint);
      return { pid: 100 };
    },
  });
  const any = (options: Partial<Options>): Any => ({
    typeUrl: 'containerd.runc.v1.Options',
    value: Options.encode({ ...Options.create(), ...options }).finish(),
  });
  const own = { typeUrl: 'runtime.options', value: Buffer.from([1]) };
  addContainer('a', own);
  addContainer('b', own);
  addContainer('c');
  addContainer('d');
  addContainer('e');
  await call('create', { containerId: 'a' });
  await call('create', { containerId: 'b', options: any({ binaryName: 'crun', criuImagePath: '/images' }) });
  const foreign = { typeUrl: 'example.Options', value: Buffer.from([]) };
  await assert.rejects(call('create', { containerId: 'c', options: foreign }), { code: 'unknown' });
  await call('create', { containerId: 'c' });
  const descriptor = (mediaType: string, annotations: [string, string][] = []) => ({
    ...Descriptor.create({ mediaType }),
    annotations: new Map(annotations),
  });
  const images = 'application/vnd.containerd.container.criu.checkpoint.criu.tar';
  await call('create', { containerId: 'd', checkpoint: descriptor(images) });
  assert.deepEqual(removed, []);
  await call('start', { containerId: 'd' });
  assert.deepEqual(removed, ['/tmp/restore']);
  await assert.rejects(call('create', { containerId: 'e', checkpoint: descriptor('text/plain') }), {
    code: 'unknown',
  });
  await call('create', { containerId: 'e', checkpoint: descriptor('x', [['RestoreFromPath', '/from']]) });
  assert.deepEqual(
    seen.map((options) => options?.typeUrl),
    ['runtime.options', 'containerd.runc.v1.Options', undefined, undefined, undefined],
  );
  assert.deepEqual(checkpoints, ['', '/images', '', '/tmp/restore', '/from']);
});

test('execs need a good id and a spec', async (t) => {
  const { call, addContainer } = await setUp(t, {
    exec: () => ({}),
    delete: ({ execId }) => wire.DeleteResponse.create({ pid: 5, exitStatus: execId === '' ? 0 : 4 }),
    state: ({ id, execId }) => wire.StateResponse.create({ id, execId, pid: 5 }),
  });
  addContainer('web');
  await call('create', { containerId: 'web' });
  const spec = { typeUrl: 'process', value: Buffer.from('{}') };
  for (const execId of ['', 'a/b', 'x'.repeat(77)]) {
    await assert.rejects(call('exec', { containerId: 'web', execId, spec }), { code: 'invalid-argument' });
  }
  await assert.rejects(call('exec', { containerId: 'web', execId: 'e' }), { code: 'invalid-argument' });
  await assert.rejects(call('update', { containerId: 'web' }), { code: 'invalid-argument' });
  await call('exec', { containerId: 'web', execId: 'e', spec });
  const { process } = await call('get', { containerId: 'web', execId: 'e' });
  assert.deepEqual([process?.containerId, process?.id], ['', 'e']);
  const deleted = await call('deleteProcess', { containerId: 'web', execId: 'e' });
  assert.deepEqual([deleted.id, deleted.exitStatus], ['e', 4]);
  await assert.rejects(call('deleteProcess', { containerId: 'web' }), { code: 'invalid-argument' });
});

test('checkpoints go where they are asked to go', async (t) => {
  const paths: string[] = [];
  const { call, addContainer, removed } = await setUp(t, {
    checkpoint: ({ path }) => {
      paths.push(path);
      return {};
    },
  });
  addContainer('web');
  await call('create', { containerId: 'web' });
  const options = (imagePath: string): Any => ({
    typeUrl: 'types.containerd.io/containerd.runc.v1.CheckpointOptions',
    value: CheckpointOptions.encode({ ...CheckpointOptions.create(), imagePath }).finish(),
  });
  const foreign = { typeUrl: 'containerd.runc.v1.Options', value: Buffer.from([]) };
  await assert.rejects(call('checkpoint', { containerId: 'web', options: foreign }), { code: 'unknown' });
  assert.deepEqual(await call('checkpoint', { containerId: 'web', options: options('/here') }), {
    descriptors: [],
  });
  assert.equal((await call('checkpoint', { containerId: 'web' })).descriptors.length, 2);
  const { descriptors } = await call('checkpoint', { containerId: 'web', options: options('') });
  assert.deepEqual(
    descriptors.map(({ mediaType }) => mediaType),
    ['/tmp/checkpoint', 'spec'],
  );
  assert.deepEqual(paths, ['/here', '/tmp/checkpoint', '/tmp/checkpoint']);
  assert.deepEqual(removed, ['/tmp/checkpoint', '/tmp/checkpoint']);
});

test('metrics of the tasks that a filter names; those without figures are left out', async (t) => {
  const { call, addContainer, fake } = await setUp(t);
  for (const id of ['a', 'b', 'c']) {
    addContainer(id);
    fake.options.shim =
      id === 'c' ? {} : { stats: () => ({ stats: { typeUrl: id, value: Buffer.from([]) } }) };
    await call('create', { containerId: id });
  }
  const { metrics } = await call('metrics', {});
  assert.deepEqual(
    metrics.map(({ id, data, timestamp }) => [id, data?.typeUrl, timestamp?.seconds]),
    [
      ['a', 'a', 7n],
      ['b', 'b', 7n],
    ],
  );
  const ids = async (...filters: string[]) =>
    (await call('metrics', { filters })).metrics.map(({ id }) => id);
  assert.deepEqual(await ids('id==b'), ['b']);
  assert.deepEqual(await ids(`namespace==${namespace},id==a`), ['a']);
  assert.deepEqual(await ids('namespace==other'), []);
  await assert.rejects(call('metrics', { filters: ['id=='] }), { code: 'unknown' });
});
