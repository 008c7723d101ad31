// What the log of events must say at the end: every start and exit once, in order, with the status of the kernel.
import { TaskDelete, TaskExecStarted, TaskExit, TaskStart } from '../../src/api/proto/gen/events/task.ts';
import { EventsDefinition } from '../../src/api/proto/gen/services/events/v1/events.ts';
import type { Envelope } from '../../src/api/proto/gen/types/event.ts';
import type { Daemon } from '../fixtures/daemon.ts';
import { until } from '../fixtures/process.ts';
import type { Life } from './containers.ts';

/** All events of the namespace from the first one on. */
export async function readEvents(daemon: Daemon): Promise<Envelope[]> {
  using client = daemon.grpc();
  const marker = { topic: '/chaos/end', event: { typeUrl: 'end', value: Buffer.from('x') } };
  const options = { headers: { 'troupe-events-after': '0' }, deadlineMs: 120_000 };
  const following = client.follow(EventsDefinition, 'subscribe', { filters: [] }, options);
  try {
    await client.call(EventsDefinition, 'publish', marker, { namespace: daemon.namespace });
    await until(
      'the log has been read',
      () => (following.messages.some(({ topic }) => topic === marker.topic) ? true : undefined),
      { timeoutMs: 60_000 },
    );
    return following.messages.filter(({ namespace }) => namespace === daemon.namespace);
  } finally {
    following.cancel();
  }
}

interface Told {
  topic: string;
  pid: number;
  status?: number;
}

/** `unwatched`: containers whose shim somebody killed or cut off: nobody can know how they ended. */
export function complaintsOf(
  events: readonly Envelope[],
  lives: readonly Life[],
  unwatched: ReadonlySet<string>,
): string[] {
  const told = new Map<string, Told[]>();
  const note = (id: string, process: string, entry: Told) => {
    const key = process === '' || process === id ? id : `${id}/${process}`;
    const list = told.get(key) ?? [];
    list.push(entry);
    told.set(key, list);
  };
  for (const { topic, event } of events) {
    const value = event?.value ?? new Uint8Array();
    if (topic === '/tasks/start') {
      const { containerId, pid } = TaskStart.decode(value);
      note(containerId, '', { topic, pid });
    } else if (topic === '/tasks/exec-started') {
      const { containerId, execId, pid } = TaskExecStarted.decode(value);
      note(containerId, execId, { topic, pid });
    } else if (topic === '/tasks/exit') {
      const { containerId, id, pid, exitStatus } = TaskExit.decode(value);
      note(containerId, id, { topic, pid, status: exitStatus });
    } else if (topic === '/tasks/delete') {
      const { containerId, id, pid } = TaskDelete.decode(value);
      if (id === '' || id === containerId) note(containerId, '', { topic, pid });
    }
  }
  const complaints: string[] = [];
  for (const life of lives) {
    const list = told.get(life.id) ?? [];
    const shown = `${life.id}: ${list.map(({ topic, status }) => topic.slice(7) + (status ?? '')).join(' ')}`;
    const exits = list.filter(({ topic }) => topic === '/tasks/exit');
    const order = list.map(({ topic }) => ['/tasks/start', '/tasks/exit', '/tasks/delete'].indexOf(topic));
    const watched = !unwatched.has(life.id);
    if (exits.length > 1) complaints.push(`${shown}: told more than once`);
    if (life.pid !== undefined && exits.length === 0 && watched)
      complaints.push(`${shown}: exit is not told`);
    // One that was created and never started may tell its end after its deletion.
    const started = list.some(({ topic }) => topic === '/tasks/start');
    if (started && order.some((rank, index) => index > 0 && rank < (order[index - 1] ?? 0))) {
      complaints.push(`${shown}: out of order`);
    }
    const status = exits[0]?.status;
    if (status !== undefined && started && watched) {
      if (status !== life.exitCode && !(status === 137 && life.killed)) {
        complaints.push(`${shown}: status ${status}, not ${life.exitCode}`);
      }
      if (life.status !== undefined && life.status !== status) {
        complaints.push(`${shown}: deleted with status ${life.status}`);
      }
    }
    for (const execId of life.execs) {
      const exec = told.get(`${life.id}/${execId}`) ?? [];
      const ended = exec.filter(({ topic }) => topic === '/tasks/exit').length;
      if (ended > 1) complaints.push(`${life.id}/${execId}: exit told ${ended} times`);
      if (exec[0]?.topic === '/tasks/exit') complaints.push(`${life.id}/${execId}: exit before its start`);
    }
  }
  return complaints;
}
