// The daemon dies or is stopped while a container runs: the container goes on, and the next daemon knows it.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { TaskExit } from '../../src/api/proto/gen/events/task.ts';
import { EventsDefinition } from '../../src/api/proto/gen/services/events/v1/events.ts';
import { TasksDefinition } from '../../src/api/proto/gen/services/tasks/v1/tasks.ts';
import { type Daemon, shimsOf, startDaemon } from '../fixtures/daemon.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { killPid, until } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { subject } from './side.ts';

async function pidOf(daemon: Daemon, id: string, status: string): Promise<string> {
  const out = await daemon.ctrOk(['task', 'ls']);
  const pid = new RegExp(`^${id} +(\\d+) +${status}`, 'm').exec(out)?.[1];
  assert.ok(pid !== undefined, `${id} is not ${status}:\n${out}`);
  return pid;
}

for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
  test(`${signal} of the daemon while a container runs`, async (t) => {
    await using registry = await startRegistry();
    const ref = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
    await using daemon = await startDaemon(subject);
    await daemon.ctrOk(['images', 'pull', '--plain-http', ref]);
    const loop = 'trap "exit 42" TERM; echo started; while :; do sleep 0.05; done';
    await daemon.ctrOk(['run', '-d', ref, 'survivor', 'sh', '-c', loop]);
    await daemon.ctrOk(['run', '-d', ref, 'leaver', 'sleep', '0.1']);
    const pid = await pidOf(daemon, 'survivor', 'RUNNING');
    await daemon.stop(signal);
    await daemon.start();

    await t.test('task ls shows it with the same pid', async () => {
      assert.equal(await pidOf(daemon, 'survivor', 'RUNNING'), pid);
    });

    await t.test('what exited while no daemon was there is stopped', async () => {
      await until('leaver is stopped', async () => {
        const out = await daemon.ctrOk(['task', 'ls']);
        return /^leaver +\d+ +STOPPED/m.test(out) || !out.includes('leaver') ? true : undefined;
      });
    });

    await t.test('exec works', async () => {
      const outcome = await daemon.ctr([
        'task',
        'exec',
        '--exec-id',
        'e1',
        'survivor',
        'sh',
        '-c',
        'echo inside; exit 3',
      ]);
      assert.deepEqual(outcome, { code: 3, stdout: 'inside\n', stderr: '' });
    });

    await t.test('its exit status arrives at who waits', async () => {
      using client = daemon.grpc();
      const options = { namespace: daemon.namespace };
      const waiting = client.call(TasksDefinition, 'wait', { containerId: 'survivor' }, options);
      await daemon.ctrOk(['task', 'kill', 'survivor']);
      const exit = await waiting;
      assert.equal(exit.exitStatus, 42);
      await pidOf(daemon, 'survivor', 'STOPPED');
      const removed = await daemon.ctr(['task', 'rm', 'survivor']);
      assert.equal(removed.code, 0);
      assert.match(removed.stderr, /exit code 42/);
      await daemon.ctrOk(['containers', 'rm', 'survivor']);
    });

    await t.test('a shim that died while no daemon was there is cleaned up', async () => {
      await daemon.ctrOk(['run', '-d', ref, 'orphan', 'sleep', '1000']);
      const init = Number(await pidOf(daemon, 'orphan', 'RUNNING'));
      await daemon.stop(signal);
      const shims = shimsOf(daemon.address).filter((shim) => shim.args.includes('orphan'));
      assert.equal(shims.length, 1);
      killPid(shims[0]!.pid);
      killPid(init);
      await daemon.start();
      assert.doesNotMatch(await daemon.ctrOk(['task', 'ls']), /orphan/);
      await daemon.ctrOk(['containers', 'rm', 'orphan']);
      assert.equal(await daemon.ctrOk(['run', '--rm', ref, 'orphan', 'echo', 'again']), 'again\n');
    });

    await t.test('a shim that dies under the daemon ends its task with status 137', async () => {
      await daemon.ctrOk(['run', '-d', ref, 'widow', 'sleep', '1000']);
      const init = Number(await pidOf(daemon, 'widow', 'RUNNING'));
      using client = daemon.grpc();
      const events = client.follow(EventsDefinition, 'subscribe', { filters: ['topic~="^/tasks/"'] });
      await until('the subscription is heard', async () => {
        await daemon.ctr(['run', '--rm', ref, 'probe', 'true']);
        return events.messages.length > 0 ? true : undefined;
      });
      const shim = shimsOf(daemon.address).find((info) => info.args.includes('widow'));
      killPid(shim!.pid);
      const topics = await until('exit and delete', () => {
        const mine = events.messages.filter((envelope) =>
          Buffer.from(envelope.event!.value).includes('widow'),
        );
        return mine.length >= 2 ? mine : undefined;
      });
      events.cancel();
      assert.deepEqual(
        topics.map((envelope) => envelope.topic),
        ['/tasks/exit', '/tasks/delete'],
      );
      assert.equal(TaskExit.decode(topics[0]!.event!.value).exitStatus, 137);
      assert.doesNotMatch(await daemon.ctrOk(['task', 'ls']), /widow/);
      await until('the container is gone', () => (existsSync(`/proc/${init}`) ? undefined : true));
      await daemon.ctrOk(['containers', 'rm', 'widow']);
    });
  });
}
