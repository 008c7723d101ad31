// The durable log of events, on a real daemon: who was away hears what was missed, also when the daemon was killed.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createClient } from '../../src/api/client/client.ts';
import type { EventPosition } from '../../src/api/model/envelope.ts';
import { TaskExit } from '../../src/api/proto/gen/events/task.ts';
import { EventsDefinition } from '../../src/api/proto/gen/services/events/v1/events.ts';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';

const config = '[plugins."io.containerd.event.v1.exchange"]\nlog_events_max = 20\n';

/** The numbers and topics of `count` events after `after`. */
async function take({ address }: Daemon, after: EventPosition, count: number, ...filters: string[]) {
  using client = createClient({ address });
  const seen: string[] = [];
  const controller = new AbortController();
  for await (const { sequence, topic } of client.events.subscribe(filters, {
    after,
    signal: controller.signal,
  })) {
    seen.push(`${sequence} ${topic}`);
    if (seen.length === count) break;
  }
  controller.abort();
  return seen;
}

test('a subscriber goes on after the last event that it saw, whatever became of the daemon', async () => {
  await using daemon = await startDaemon('troupe', { config });
  const event = { typeUrl: 'x', value: Buffer.from('y') };
  const publish = async (...topics: string[]) => {
    using grpc = daemon.grpc();
    for (const topic of topics) {
      await grpc.call(EventsDefinition, 'publish', { topic, event }, { namespace: daemon.namespace });
    }
  };
  await publish('/a', '/b');
  assert.deepEqual(await take(daemon, 0, 2), ['1 /a', '2 /b']);
  await daemon.stop('SIGKILL');
  await daemon.start();
  await publish('/c');
  assert.deepEqual(await take(daemon, 1, 2), ['2 /b', '3 /c']);
  assert.deepEqual(await take(daemon, 0, 1, 'topic=="/c"'), ['3 /c']);

  // A shim that lost its connection to the killed daemon sends again what it does not know to have arrived.
  const exit = async (pid: number, seconds: bigint) => {
    using grpc = daemon.grpc();
    const exitedAt = { seconds: 7n, nanos: pid };
    const value = TaskExit.encode({ containerId: 'c', id: 'c', pid, exitStatus: 0, exitedAt }).finish();
    const envelope = {
      namespace: daemon.namespace,
      topic: '/tasks/exit',
      timestamp: { seconds, nanos: 0 },
      event: { typeUrl: 'containerd.events.TaskExit', value },
    };
    await grpc.call(EventsDefinition, 'forward', { envelope });
  };
  await exit(1, 8n);
  await daemon.stop('SIGKILL');
  await daemon.start();
  await exit(1, 9n);
  await exit(2, 9n);
  assert.deepEqual(await take(daemon, 3, 2), ['4 /tasks/exit', '5 /tasks/exit']);

  await assert.rejects(take(daemon, 6, 1), { code: 'out-of-range', message: /lies ahead/ });
  await publish(...Array.from({ length: 20 }, () => '/d'));
  await assert.rejects(take(daemon, 0, 1), { code: 'out-of-range', message: /oldest that is kept is 6/ });
  await assert.rejects(take(daemon, -1, 1), { code: 'invalid-argument', message: /troupe-events-after/ });
  assert.equal((await take(daemon, 5, 20)).at(-1), '25 /d');
  assert.deepEqual(await take(daemon, 'oldest', 1), ['6 /d']);
});
