// The Task service of a shim, versions 2 and 3: the same messages for the same containers.
import type { ContainerProtocol } from '../../actors/container/protocol.ts';
import type { ActorRef, CallOptions } from '../../supervisor/types.ts';
import { Empty } from '../proto/gen/google/protobuf/empty.ts';
import {
  ConnectResponse,
  type CreateTaskRequest,
  CreateTaskResponse,
  StartResponse,
  StatsResponse,
  TaskDefinition,
} from '../proto/gen/runtime/task/v3/shim.ts';
import { type CallContext, type Handlers, type TtrpcService, ttrpcService } from './service.ts';

export interface TaskServiceDeps {
  /** Throws `not-found` when there is no such container. */
  readonly find: (id: string) => ActorRef<ContainerProtocol>;
  readonly has: (id: string) => boolean;
  readonly create: (request: CreateTaskRequest, options: CallOptions) => Promise<{ pid: number }>;
  /** The daemon has no more use for this shim, as far as it knows. */
  readonly onShutdown: () => void;
}

export function taskServices(deps: TaskServiceDeps): TtrpcService[] {
  const options = ({ deadlineMs, signal }: CallContext): CallOptions => ({ deadlineMs, signal });
  const empty = async (work: Promise<undefined>): Promise<Empty> => {
    await work;
    return Empty.create();
  };
  const handlers: Handlers<typeof TaskDefinition> = {
    create: async (request, context) =>
      CreateTaskResponse.create(await deps.create(request, options(context))),
    start: async ({ id, execId }, context) =>
      StartResponse.create(await deps.find(id).call('start', { execId }, options(context))),
    state: async ({ id, execId }, context) => await deps.find(id).call('state', { execId }, options(context)),
    wait: async ({ id, execId }, context) => await deps.find(id).call('wait', { execId }, options(context)),
    delete: async ({ id, execId }, context) =>
      await deps.find(id).call('delete', { execId }, options(context)),
    kill: ({ id, execId, signal, all }, context) =>
      empty(deps.find(id).call('kill', { execId, signal, all }, options(context))),
    exec: (request, context) => empty(deps.find(request.id).call('exec', request, options(context))),
    pids: async ({ id }, context) => await deps.find(id).call('pids', undefined, options(context)),
    pause: ({ id }, context) => empty(deps.find(id).call('pause', undefined, options(context))),
    resume: ({ id }, context) => empty(deps.find(id).call('resume', undefined, options(context))),
    checkpoint: (request, context) =>
      empty(deps.find(request.id).call('checkpoint', request, options(context))),
    update: ({ id, resources }, context) =>
      empty(
        deps.find(id).call('update', { resources: resources?.value ?? new Uint8Array(0) }, options(context)),
      ),
    resizePty: ({ id, execId, width, height }, context) =>
      empty(deps.find(id).call('resizePty', { execId, width, height }, options(context))),
    closeIO: ({ id, execId, stdin }, context) =>
      empty(deps.find(id).call('closeIo', { execId, stdin }, options(context))),
    stats: async ({ id }, context) =>
      StatsResponse.create({ stats: await deps.find(id).call('stats', undefined, options(context)) }),
    connect: async ({ id }, context) =>
      deps.has(id)
        ? await deps.find(id).call('connect', undefined, options(context))
        : ConnectResponse.create({ shimPid: process.pid }),
    shutdown: () => {
      deps.onShutdown();
      return Empty.create();
    },
  };
  // The messages of version 2 are the same; its generated module would only cost memory.
  const version2: Omit<typeof TaskDefinition, 'fullName'> & { fullName: string } = {
    ...TaskDefinition,
    fullName: 'containerd.task.v2.Task',
  };
  return [ttrpcService(TaskDefinition, handlers), ttrpcService(version2, handlers)];
}
