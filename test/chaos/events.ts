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

/**
 * `ours`: the shim takes its containers over when it was killed, and loses nothing that it has told a client. Of any
 * other shim that was killed nobody hears any more of execs; its container is killed, and that is told.
 */
export function complaintsOf(events: readonly Envelope[], lives: readonly Life[], ours: boolean): string[] {
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
    const started = life.pid !== undefined || list.some(({ topic }) => topic === '/tasks/start');
    if (exits.length > 1) complaints.push(`${shown}: exit told ${exits.length} times`);
    if (started && exits.length === 0) complaints.push(`${shown}: exit is not told`);
    // One that was created and never started may tell its end after its deletion.
    if (started && order.some((rank, index) => index > 0 && rank < (order[index - 1] ?? 0))) {
      complaints.push(`${shown}: out of order`);
    }
    const status = exits[0]?.status;
    if (status !== undefined && started) {
      const known = status === life.exitCode || (status === 137 && life.killed);
      if (!known && !(status === 255 && life.unsure)) {
        complaints.push(`${shown}: status ${status}, not ${life.exitCode}`);
      }
      for (const [who, said] of [
        ['Delete', life.status],
        ['Wait', life.waited],
      ] as const) {
        if (said !== undefined && said !== status) complaints.push(`${shown}: ${who} said ${said}`);
      }
    }
    complaints.push(...execComplaints(life, told, ours));
  }
  return complaints;
}

function execComplaints(life: Life, told: ReadonlyMap<string, Told[]>, ours: boolean): string[] {
  const complaints: string[] = [];
  for (const [execId, waited] of life.execs) {
    const exec = told.get(`${life.id}/${execId}`) ?? [];
    const shown = `${life.id}/${execId}: ${exec.map(({ topic, status }) => topic.slice(7) + (status ?? '')).join(' ')}`;
    const exits = exec.filter(({ topic }) => topic === '/tasks/exit');
    if (exits.length > 1) complaints.push(`${shown}: exit told ${exits.length} times`);
    if (exec[0]?.topic === '/tasks/exit') complaints.push(`${shown}: exit before its start`);
    if (waited === undefined) continue;
    if (exits.length === 0 && ours) complaints.push(`${shown}: exit is not told, Wait said ${waited}`);
    if (exits.length > 0 && exits[0]?.status !== waited) complaints.push(`${shown}: Wait said ${waited}`);
    const known = waited === 5 || (waited === 137 && (life.signalled || life.killed));
    if (!known && !(waited === 255 && life.unsure)) complaints.push(`${shown}: status ${waited}, not 5`);
  }
  return complaints;
}
