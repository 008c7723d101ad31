// Tasks over shims that misbehave: errors, silence, and death at every point.
import assert from 'node:assert/strict';
import { renameSync } from 'node:fs';
import { test } from 'node:test';
import { shimPath } from '../../../../src/actors/shim/protocol.ts';
import { taskPath } from '../../../../src/actors/task/protocol.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import type { ShimAddress } from '../../../../src/api/model/ports/shim.ts';
import { TaskDelete, TaskExit } from '../../../../src/api/proto/gen/events/task.ts';
import * as wire from '../../../../src/api/proto/gen/runtime/task/v3/shim.ts';
import { Status } from '../../../../src/api/proto/gen/types/task/task.ts';
import { createFake, type Fake, goodShim, namespace, type ShimHandlers, silence } from './fake.ts';

const options = { timeout: 20_000 };
const init = { execId: '' };
const forever = { deadlineMs: Number.POSITIVE_INFINITY };
const isGone = (fake: Fake, id = 'web') =>
  !fake.system.alive(taskPath(namespace, id)) && !fake.system.alive(shimPath(namespace, id));

/** Nothing of the task is left, and its id can be used again. */
async function assertClean(fake: Fake, id = 'web'): Promise<void> {
  await fake.until(() => isGone(fake, id));
  assert.equal(fake.bundles.has(id), false);
  assert.deepEqual(fake.tasks.ids(namespace), []);
  fake.options.shim = {};
  delete fake.options.onStart;
  delete fake.options.address;
  await fake.create(id);
}

test('a task lives, and its end leaves nothing', options, async (t) => {
  const fake = await createFake(t);
  const task = await fake.create();
  assert.deepEqual(await task.call('start', init), { pid: 100 });
  const waiting = task.call('wait', init, forever);
  await task.call('kill', { ...init, signal: 9, all: false });
  assert.equal((await waiting).exitStatus, 137);
  fake.calls.length = 0;
  assert.equal((await fake.tasks.delete({ namespace, id: 'web' })).exitStatus, 137);
  assert.deepEqual(fake.calls, ['web.delete', 'web.shutdown', 'web:delete', 'web:remove']);
  assert.deepEqual(fake.topics(), []);
  assert.ok(isGone(fake));
  await assertClean(fake);
});

test('an id is taken while its task is made and until it is deleted', options, async (t) => {
  const gate = Promise.withResolvers<void>();
  const fake = await createFake(t, { onStart: () => gate.promise });
  const first = fake.create();
  await assert.rejects(fake.create(), { code: 'already-exists' });
  await fake.until(() => fake.calls.includes('web:start'));
  await assert.rejects(fake.task().call('start', init), { code: 'not-found' });
  await assert.rejects(fake.create(), { code: 'already-exists' });
  gate.resolve();
  await first;
  await assert.rejects(fake.create(), { code: 'already-exists' });
});

/** A shim that has no process to tell of when it has created a task: it is asked once more. */
const noPid = { create: async () => ({ pid: 0 }) };

test('failures on the way to a task are undone', options, async (t) => {
  const cases: [string, Fake['options'], string[]][] = [
    [
      'start',
      { onStart: () => Promise.reject(fail('unknown', 'start failed')) },
      ['web:start', 'web:remove'],
    ],
    [
      'dial',
      { address: (address) => ({ ...address, address: 'vsock://1:2' }) },
      ['web:start', 'web:delete', 'web:clear', 'web:remove'],
    ],
    [
      'create',
      { shim: { create: () => Promise.reject(fail('unknown', 'OCI runtime create failed')) } },
      ['web:start', 'web.create', 'web.delete', 'web.shutdown', 'web:delete', 'web:clear', 'web:remove'],
    ],
    [
      'connect',
      { shim: { ...noPid, connect: () => Promise.reject(fail('internal', 'no')) } },
      [
        'web:start',
        'web.create',
        'web.connect',
        'web.delete',
        'web.shutdown',
        'web:delete',
        'web:clear',
        'web:remove',
      ],
    ],
  ];
  for (const [name, faulty, calls] of cases) {
    const fake = await createFake(t, faulty);
    await assert.rejects(fake.create(), `${name} must fail`);
    assert.deepEqual(fake.calls, calls, name);
    assert.deepEqual(fake.topics(), [], name);
    await assertClean(fake);
  }
});

test('a shim that dies on the way to a task is cleaned up, and nobody hears of it', options, async (t) => {
  for (const name of ['create', 'connect'] as const) {
    const fake = await createFake(t);
    const die = () => {
      void fake.servers.get('web')?.close();
      return silence();
    };
    fake.options.shim = { ...noPid, [name]: die };
    await assert.rejects(fake.create(), { code: 'unknown', message: 'ttrpc: closed' });
    await fake.until(() => isGone(fake));
    assert.deepEqual(
      fake.calls.filter((call) => call.startsWith('web:')),
      ['web:start', 'web:delete', 'web:clear shim', 'web:remove'],
    );
    assert.deepEqual(fake.topics(), []);
    await assertClean(fake);
  }
});

test('a caller that gives up on a create gets it undone', options, async (t) => {
  for (const at of ['start', 'create'] as const) {
    const fake = await createFake(t);
    const abort = new AbortController();
    const entered = Promise.withResolvers<void>();
    const hang = () => {
      entered.resolve();
      return silence();
    };
    if (at === 'start') {
      // The fake start does not see the signal: it comes through, late.
      fake.options.onStart = async () => {
        entered.resolve();
        await new Promise((resolve) => setImmediate(resolve));
      };
    } else fake.options.shim = { create: hang };
    const creating = fake.create('web', abort.signal);
    await entered.promise;
    abort.abort();
    await assert.rejects(creating, { code: 'canceled' });
    assert.deepEqual(fake.calls.slice(-3), ['web:delete', 'web:clear', 'web:remove']);
    assert.ok(fake.calls.includes('web.shutdown'));
    await assertClean(fake);
  }
});

test('the death of a shim ends its task with exit and delete events', options, async (t) => {
  const fake = await createFake(t);
  const task = await fake.create();
  const other = await fake.create('other');
  const waiting = task.call('wait', init, forever);
  const seen = assert.rejects(waiting, { code: 'unknown', message: 'ttrpc: closed' });
  await fake.until(() => fake.calls.includes('web.wait'));
  await fake.servers.get('web')?.close();
  await seen;
  await fake.until(() => isGone(fake));
  assert.deepEqual(fake.topics(), ['/tasks/exit', '/tasks/delete']);
  const [exit, deletion] = fake.envelopes;
  assert.deepEqual(
    [exit?.namespace, exit?.event?.typeUrl, deletion?.event?.typeUrl],
    [namespace, 'containerd.events.TaskExit', 'containerd.events.TaskDelete'],
  );
  const { containerId, id, pid, exitStatus, exitedAt } = TaskExit.decode(exit!.event!.value);
  assert.deepEqual([containerId, id, pid, exitStatus, exitedAt?.seconds], ['web', 'web', 100, 137, 5n]);
  assert.equal(TaskDelete.decode(deletion!.event!.value).id, '');
  assert.deepEqual(fake.tasks.ids(namespace), ['other']);
  await other.call('start', init);
});

test('a shim that dies under a question and is taken over answers by its successor', options, async (t) => {
  const fake = await createFake(t, { revives: true, shim: { state: () => silence() } });
  const task = await fake.create();
  // The successor knows of a start that it has not seen.
  fake.options.shim = { state: ({ id }) => wire.StateResponse.create({ id, pid: 100, status: 2 }) };
  const asking = task.call('state', { ...init, deadlineMs: 10_000 });
  await fake.until(() => fake.calls.includes('web.state'));
  await fake.servers.get('web')?.close();
  const state = await asking;
  assert.deepEqual([state.pid, state.status], [100, 2]);
  assert.deepEqual(fake.topics(), []);
});

test(
  'an exit that a shim told before it died is not told again, and the deletion says how it was',
  options,
  async (t) => {
    const exitedAt = { seconds: 3n, nanos: 4 };
    const fake = await createFake(t, {
      toldExit: async (id, pid) => TaskExit.create({ containerId: id, id, pid, exitStatus: 42, exitedAt }),
    });
    await fake.create();
    await fake.servers.get('web')?.close();
    await fake.until(() => isGone(fake));
    assert.deepEqual(fake.topics(), ['/tasks/delete']);
    const deletion = TaskDelete.decode(fake.envelopes[0]!.event!.value);
    assert.deepEqual([deletion.pid, deletion.exitStatus, deletion.exitedAt?.seconds], [100, 42, 3n]);
  },
);

test('when nobody knows whether an exit was told, it is told', options, async (t) => {
  const fake = await createFake(t, { toldExit: () => Promise.reject(fail('unavailable', 'metadata')) });
  await fake.create();
  await fake.servers.get('web')?.close();
  await fake.until(() => isGone(fake));
  assert.deepEqual(fake.topics(), ['/tasks/exit', '/tasks/delete']);
});

test('when even the cleanup fails, the exit is 255', options, async (t) => {
  const fake = await createFake(t, { deleted: () => Promise.reject(fail('deadline-exceeded', 'slow')) });
  await fake.create();
  await fake.servers.get('web')?.close();
  await fake.until(() => isGone(fake));
  const { pid, exitStatus } = TaskExit.decode(fake.envelopes[0]!.event!.value);
  assert.deepEqual([pid, exitStatus], [0, 255]);
  assert.equal(fake.bundles.has('web'), false);
});

test('a shim that dies under a delete: the call fails, the task is gone', options, async (t) => {
  const fake = await createFake(t);
  fake.options.shim = {
    delete: () => {
      void fake.servers.get('web')?.close();
      return silence();
    },
  };
  await fake.create();
  await assert.rejects(fake.tasks.delete({ namespace, id: 'web' }), { message: 'ttrpc: closed' });
  await fake.until(() => isGone(fake));
  assert.deepEqual(fake.topics(), ['/tasks/exit', '/tasks/delete']);
  await assertClean(fake);
});

test(
  'a delete that the shim refuses changes nothing; one that it has no task for cleans up',
  options,
  async (t) => {
    let answer: () => wire.DeleteResponse = () => {
      throw fail('unknown', 'cannot delete a running process');
    };
    const fake = await createFake(t, { shim: { delete: () => answer() } });
    const task = await fake.create();
    await assert.rejects(fake.tasks.delete({ namespace, id: 'web' }), { code: 'unknown' });
    await task.call('start', init);
    answer = () => {
      throw fail('not-found', 'container');
    };
    await assert.rejects(fake.tasks.delete({ namespace, id: 'web' }), { code: 'not-found' });
    assert.deepEqual(fake.calls.slice(-4), ['web.shutdown', 'web:delete', 'web:clear', 'web:remove']);
    assert.deepEqual(fake.topics(), []);
    await assertClean(fake);
  },
);

test('two deletes at once: one answer, one not-found', options, async (t) => {
  const gate = Promise.withResolvers<wire.DeleteResponse>();
  const fake = await createFake(t, { shim: { delete: () => gate.promise } });
  await fake.create();
  const both = Promise.allSettled([1, 2].map(() => fake.tasks.delete({ namespace, id: 'web' })));
  await fake.until(() => fake.calls.includes('web.delete'));
  gate.resolve(wire.DeleteResponse.create({ exitStatus: 3 }));
  const [first, second] = await both;
  assert.equal(first?.status, 'fulfilled');
  assert.equal(second?.status === 'rejected' && second.reason.code, 'not-found');
  assert.equal(fake.calls.filter((call) => call === 'web.delete').length, 1);
});

test('a silent shim holds up its own calls only', options, async (t) => {
  const fake = await createFake(t, { taskTimeouts: { callMs: 60, slowCallMs: 60 } });
  fake.options.shim = { state: silence, kill: silence, start: silence };
  const silent = await fake.create('silent');
  fake.options.shim = {};
  const good = await fake.create('good');
  const late = Promise.all(
    [
      silent.call('state', { execId: '', deadlineMs: 50 }),
      silent.call('kill', { execId: '', signal: 9, all: false }),
      silent.call('start', init),
    ].map((call) => assert.rejects(call, { code: 'deadline-exceeded' })),
  );
  await good.call('start', init);
  assert.equal((await good.call('state', { execId: '', deadlineMs: 2000 })).pid, 100);
  assert.equal((await silent.call('pids', undefined)).length, 1);
  await late;
});

test('a shim that will not shut down is left after its time', options, async (t) => {
  const fake = await createFake(t, { shim: { shutdown: silence }, shimTimeouts: { shutdownMs: 30 } });
  await fake.create();
  await fake.tasks.delete({ namespace, id: 'web' });
  assert.ok(isGone(fake));
  assert.ok(fake.log.some(({ message }) => message.includes('does not shut down')));
});

test('malformed answers are errors of their call', options, async (t) => {
  const broken = { typeUrl: 7 } as never;
  const fake = await createFake(t, { shim: { stats: () => ({ stats: broken }), pids: () => ({}) as never } });
  const task = await fake.create();
  await assert.rejects(task.call('stats', { deadlineMs: 10_000 }), { code: 'internal' });
  await assert.rejects(task.call('pids', undefined), { code: 'internal' });
  await assert.rejects(task.call('update', { resources: undefined, annotations: new Map() }), {
    code: 'unimplemented',
  });
  await task.call('start', init);
});

test('a shim whose socket was deleted while there was no daemon is found again', options, async (t) => {
  const fake = await createFake(t);
  await fake.plant('web');
  const { address } = fake.bundles.get('web')?.address ?? {};
  const path = String(address).slice('unix://'.length);
  renameSync(path, `${path}.kept`);
  fake.options.restoreSocket = async () => {
    renameSync(`${path}.kept`, path);
    return true;
  };
  await fake.tasks.recover({ runtimeOf: () => 'io.fake.v1' });
  assert.deepEqual(await fake.task().call('start', init), { pid: 100 });
  assert.ok(!fake.calls.includes('web:delete'));
});

test('a shim hears how long its caller waits for a start', options, async (t) => {
  const limits: number[] = [];
  const start: ShimHandlers['start'] = (_request, { deadlineMs }) => {
    limits.push(deadlineMs);
    return { pid: 100 };
  };
  const fake = await createFake(t, { shim: { start } });
  const task = await fake.create();
  await task.call('start', { ...init, deadlineMs: 5_000 });
  await task.call('start', init);
  const [short = 0, long = 0] = limits;
  assert.ok(short <= 5_000 && long > 5_000 && long <= 10_000, String(limits));
});

test('calls for an exec ask for its state first', options, async (t) => {
  const fake = await createFake(t);
  const task = await fake.create();
  fake.calls.length = 0;
  await assert.rejects(task.call('kill', { execId: 'e', signal: 9, all: false }), { code: 'not-found' });
  await assert.rejects(task.call('wait', { execId: 'e' }), { code: 'not-found' });
  assert.deepEqual(fake.calls, ['web.state', 'web.state']);
});

test('a shim that claims version 3 but serves version 2 is served', options, async (t) => {
  const fake = await createFake(t, { serves: 2 });
  const task = await fake.create();
  assert.deepEqual(await task.call('start', init), { pid: 100 });
  await fake.tasks.delete({ namespace, id: 'web' });
});

test('many tasks at once', options, async (t) => {
  const fake = await createFake(t);
  const ids = Array.from({ length: 100 }, (_, i) => `t${i}`);
  await Promise.all(
    ids.map(async (id) => {
      const task = await fake.create(id);
      await task.call('start', init);
      const exit = task.call('wait', init, forever);
      await task.call('kill', { ...init, signal: 9, all: false });
      assert.equal((await exit).exitStatus, 137);
      await fake.tasks.delete({ namespace, id });
    }),
  );
  assert.deepEqual(fake.tasks.ids(namespace), []);
  assert.equal(fake.bundles.size, 0);
});

test('a crashed actor comes back and asks the shim what is true', options, async (t) => {
  const fake = await createFake(t);
  await fake.create();
  for (const path of [taskPath(namespace, 'web'), shimPath(namespace, 'web')]) {
    const before = fake.system.cell(path);
    before?.kill(new Error('bug'));
    await fake.until(() => fake.system.alive(path) && fake.system.cell(path) !== before);
    await fake.until(() => fake.system.alive(taskPath(namespace, 'web')));
    assert.deepEqual(await fake.task().call('start', init), { pid: 100 });
  }
  assert.deepEqual(fake.topics(), []);
  await fake.servers.get('web')?.close();
  await fake.until(() => isGone(fake));
  assert.deepEqual(fake.topics(), ['/tasks/exit', '/tasks/delete']);
});

test('a task that keeps crashing is given up alone', options, async (t) => {
  const fake = await createFake(t, { intensity: { restartsMax: 1, withinMs: 60_000 } });
  await fake.create();
  const other = await fake.create('other');
  const path = shimPath(namespace, 'web');
  for (let i = 0; i < 2; i++) {
    const before = fake.system.cell(path);
    before?.kill(new Error('bug'));
    await fake.until(() => fake.system.cell(path) !== before && (i === 1 || fake.system.alive(path)));
  }
  await fake.until(() => isGone(fake));
  await other.call('start', init);
  assert.ok(fake.log.some(({ message }) => message === 'task was given up'));
});

test('recovery keeps what lives, removes what does not, and tells nobody', options, async (t) => {
  const fake = await createFake(t);
  await fake.plant('alive');
  await fake.plant('silent-pids', { pids: () => Promise.reject(fail('internal', 'broken')) });
  await fake.plant('leaked', { pids: () => ({ processes: [] }) });
  await fake.plant('absent', { pids: () => Promise.reject(fail('not-found', 'container')) });
  fake.bundles.set('dead', {
    binary: '/bin/fake-shim',
    address: { version: 3, protocol: 'ttrpc', address: 'x' },
  });
  fake.bundles.set('halfway', { binary: '/bin/fake-shim' });
  fake.bundles.set('stranger', {});
  await fake.tasks.recover({ runtimeOf: () => undefined });
  assert.deepEqual(fake.tasks.ids(namespace), ['alive', 'silent-pids']);
  assert.deepEqual([...fake.bundles.keys()].sort(), ['alive', 'silent-pids']);
  assert.deepEqual(fake.calls.at(-1), 'sweep alive,silent-pids');
  for (const id of ['leaked', 'absent']) {
    const calls = fake.calls.filter((call) => call.startsWith(id)).map((call) => call.slice(id.length));
    assert.deepEqual(calls.slice(-4), ['.delete', '.shutdown', ':delete', ':remove']);
  }
  for (const id of ['dead', 'halfway']) assert.ok(fake.calls.includes(`${id}:delete`), id);
  assert.ok(!fake.calls.includes('stranger:delete'));
  assert.deepEqual(fake.topics(), []);
  await fake.task('alive').call('start', init);
  await fake.servers.get('alive')?.close();
  await fake.until(() => isGone(fake, 'alive'));
  assert.deepEqual(fake.topics(), ['/tasks/exit', '/tasks/delete']);
});

test(
  'a shim that died while there was no daemon: clients that knew its task are told',
  options,
  async (t) => {
    for (const exitStatus of [undefined, 42]) {
      const fake = await createFake(t, {
        toldCreate: true,
        toldExit: async () =>
          exitStatus === undefined ? undefined : TaskExit.create({ exitStatus, pid: 100 }),
      });
      const address: ShimAddress = { version: 3, protocol: 'ttrpc', address: 'unix:///no/such/socket' };
      fake.bundles.set('dead', { binary: '/bin/fake-shim', address });
      await fake.tasks.recover({ runtimeOf: () => undefined });
      await fake.until(() => fake.topics().includes('/tasks/delete'));
      const told = exitStatus === undefined ? ['/tasks/exit', '/tasks/delete'] : ['/tasks/delete'];
      assert.deepEqual(fake.topics(), told);
      assert.equal(TaskDelete.decode(fake.envelopes.at(-1)!.event!.value).exitStatus, exitStatus ?? 137);
      assert.ok(fake.calls.includes('dead:clear shim'));
    }
  },
);

test('recovery takes the runtime from the container when the bundle does not name it', options, async (t) => {
  const fake = await createFake(t);
  await fake.plant('web', goodShim());
  delete fake.bundles.get('web')?.binary;
  await fake.tasks.recover({ runtimeOf: ({ id }) => (id === 'web' ? 'io.fake.v1' : undefined) });
  assert.deepEqual(fake.tasks.ids(namespace), ['web']);
});

test('recovery does not wait for a silent shim, and finds it again when it goes on', options, async (t) => {
  const fake = await createFake(t, { shimTimeouts: { loadMs: 50 }, recoverWaitMs: 50 });
  const goOn = Promise.withResolvers<void>();
  const answer = { shimPid: 1, taskPid: 100, version: 'fake' };
  await fake.plant('mute', { connect: () => goOn.promise.then(() => answer), state: silence });
  await fake.plant('alive');
  await fake.tasks.recover({ runtimeOf: () => undefined });
  assert.deepEqual(fake.tasks.ids(namespace), ['alive', 'mute']);
  assert.equal((await fake.task('alive').call('pids', undefined)).length, 1);
  const late = fake.task('mute').call('state', { execId: '', deadlineMs: 20 });
  await assert.rejects(late, { code: 'deadline-exceeded' });
  await fake.until(() => fake.log.some(({ message }) => message === 'shim is silent'));
  goOn.resolve();
  await fake.until(() =>
    fake.log.some(({ message, fields }) => message === 'task recovered' && fields['id'] === 'mute'),
  );
  assert.ok(!fake.calls.includes('mute:delete'));
});

test('a silent shim that dies after all is told of: clients have seen its task', options, async (t) => {
  const fake = await createFake(t, { shimTimeouts: { loadMs: 20 }, recoverWaitMs: 20 });
  await fake.plant('mute', { connect: silence });
  await fake.tasks.recover({ runtimeOf: () => undefined });
  await fake.until(() => fake.log.some(({ message }) => message === 'shim is silent'));
  await fake.servers.get('mute')?.close();
  await fake.until(() => isGone(fake, 'mute'));
  assert.deepEqual(fake.topics(), ['/tasks/exit', '/tasks/delete']);
});

test('a task that ended while there was no daemon is kept for its owner, and told of', options, async (t) => {
  const fake = await createFake(t, { exitReportDelayMs: 1 });
  const exitedAt = { seconds: 7n, nanos: 8 };
  const state = { status: Status.STOPPED, pid: 100, exitStatus: 9, exitedAt };
  const ended: ShimHandlers = {
    pids: () => ({ processes: [] }),
    state: ({ id }) => wire.StateResponse.create({ id, ...state }),
  };
  await fake.plant('owned', ended);
  await fake.plant('abandoned', ended);
  await fake.tasks.recover({ runtimeOf: ({ id }) => (id === 'owned' ? 'io.fake.v1' : undefined) });
  assert.deepEqual(fake.tasks.ids(namespace), ['owned']);
  await fake.until(() => fake.envelopes.length > 0);
  assert.deepEqual(fake.topics(), ['/tasks/exit']);
  const exit = TaskExit.decode(fake.envelopes[0]?.event?.value ?? new Uint8Array());
  const { containerId, id, pid, exitStatus } = exit;
  assert.deepEqual([containerId, id, pid, exitStatus], ['owned', 'owned', 100, 9]);
  assert.deepEqual([exit.exitedAt?.seconds, exit.exitedAt?.nanos], [7n, 8]);
});
