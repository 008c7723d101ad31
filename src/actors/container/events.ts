// The events of a task, encoded and handed to the publisher.
import { timestampOfNs } from '../../api/model/time.ts';
import {
  TaskCreate,
  TaskDelete,
  TaskExecAdded,
  TaskExecStarted,
  TaskExit,
  TaskOOM,
  TaskPaused,
  TaskResumed,
  TaskStart,
} from '../../api/proto/gen/events/task.ts';
import type { CreateTaskRequest } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { Envelope } from '../../api/proto/gen/types/event.ts';
import type { PublishRequest } from '../publisher/protocol.ts';
import type { Exit } from './state.ts';

export interface EventSender {
  created(id: string, request: CreateTaskRequest, pid: number): void;
  started(id: string, pid: number): void;
  execAdded(id: string, execId: string): void;
  execStarted(id: string, execId: string, pid: number): void;
  exited(id: string, execId: string, pid: number, exit: Exit): void;
  deleted(id: string, pid: number, exit: Exit | undefined): void;
  paused(id: string): void;
  resumed(id: string): void;
  oom(id: string): void;
}

export function eventSender(
  namespace: string,
  nowNs: () => bigint,
  publish: (request: PublishRequest) => void,
): EventSender {
  const send = (id: string, topic: string, type: string, value: Uint8Array, exitOf?: string) => {
    const envelope = Envelope.create({
      timestamp: timestampOfNs(nowNs()),
      namespace,
      topic,
      event: { typeUrl: `containerd.events.${type}`, value },
    });
    const request = { containerId: id, envelope: Envelope.encode(envelope).finish() };
    publish(exitOf === undefined ? request : { ...request, exitOf });
  };
  return {
    created(id, request, pid) {
      const { bundle, rootfs, checkpoint, stdin, stdout, stderr, terminal } = request;
      const io = { stdin, stdout, stderr, terminal };
      const event = TaskCreate.create({ containerId: id, bundle, rootfs, io, checkpoint, pid });
      send(id, '/tasks/create', 'TaskCreate', TaskCreate.encode(event).finish());
    },
    started(id, pid) {
      const event = TaskStart.create({ containerId: id, pid });
      send(id, '/tasks/start', 'TaskStart', TaskStart.encode(event).finish());
    },
    execAdded(id, execId) {
      const event = TaskExecAdded.create({ containerId: id, execId });
      send(id, '/tasks/exec-added', 'TaskExecAdded', TaskExecAdded.encode(event).finish());
    },
    execStarted(id, execId, pid) {
      const event = TaskExecStarted.create({ containerId: id, execId, pid });
      send(id, '/tasks/exec-started', 'TaskExecStarted', TaskExecStarted.encode(event).finish());
    },
    exited(id, execId, pid, { status, atNs }) {
      const event = TaskExit.create({
        containerId: id,
        id: execId === '' ? id : execId,
        pid,
        exitStatus: status,
        exitedAt: timestampOfNs(atNs),
      });
      send(id, '/tasks/exit', 'TaskExit', TaskExit.encode(event).finish(), execId);
    },
    deleted(id, pid, exit) {
      const event = TaskDelete.create({
        containerId: id,
        pid,
        exitStatus: exit?.status ?? 0,
        exitedAt: exit === undefined ? undefined : timestampOfNs(exit.atNs),
      });
      send(id, '/tasks/delete', 'TaskDelete', TaskDelete.encode(event).finish());
    },
    paused: (id) =>
      send(
        id,
        '/tasks/paused',
        'TaskPaused',
        TaskPaused.encode(TaskPaused.create({ containerId: id })).finish(),
      ),
    resumed: (id) =>
      send(
        id,
        '/tasks/resumed',
        'TaskResumed',
        TaskResumed.encode(TaskResumed.create({ containerId: id })).finish(),
      ),
    oom: (id) =>
      send(id, '/tasks/oom', 'TaskOOM', TaskOOM.encode(TaskOOM.create({ containerId: id })).finish()),
  };
}
