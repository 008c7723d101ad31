// The Controller service of sandboxes: finds the controller that a request names, and tells what happened as events.
import type { SandboxController, SandboxCreate } from '../../actors/sandbox/protocol.ts';
import { fail } from '../model/errors.ts';
import { parseSandboxId } from '../model/ids.ts';
import type { Timestamp } from '../proto/gen/google/protobuf/timestamp.ts';
import {
  type ControllerCreateRequest,
  ControllerDefinition,
} from '../proto/gen/services/sandbox/v1/sandbox.ts';
import { Sandbox } from '../proto/gen/types/sandbox.ts';
import { type BoundService, bindService } from './bind.ts';
import type { CallContext } from './context.ts';

export interface SandboxEvents {
  created(namespace: string, sandboxId: string): Promise<void>;
  started(namespace: string, sandboxId: string): Promise<void>;
  exited(namespace: string, sandboxId: string, exitStatus: number, exitedAt: Timestamp): Promise<void>;
}

export interface SandboxControllerDeps {
  /** By the names that requests call `sandboxer`. */
  readonly controllers: ReadonlyMap<string, SandboxController>;
  /** The encoded sandbox record, or undefined. */
  readonly sandbox: (namespace: string, id: string) => Uint8Array | undefined;
  readonly events: SandboxEvents;
}

const epoch: Timestamp = { seconds: 0n, nanos: 0 };

export function sandboxControllerService(deps: SandboxControllerDeps): BoundService {
  const { controllers, events } = deps;

  function controllerOf({ sandboxer }: { sandboxer: string }): SandboxController {
    if (sandboxer === '') throw fail('invalid-argument', 'the request names no sandboxer');
    const controller = controllers.get(sandboxer);
    if (controller === undefined) throw fail('not-found', `sandbox controller "${sandboxer.slice(0, 200)}"`);
    return controller;
  }

  function keyOf(request: { sandboxId: string }, { namespace }: CallContext) {
    return { namespace, id: parseSandboxId(request.sandboxId) };
  }

  /** The request brings the record along; older clients have only stored it. */
  function recordOf(request: ControllerCreateRequest, namespace: string): Sandbox {
    if (request.sandbox !== undefined) return request.sandbox;
    const record = deps.sandbox(namespace, request.sandboxId);
    if (record === undefined) throw fail('not-found', `sandbox "${request.sandboxId}"`);
    return Sandbox.decode(record);
  }

  return bindService(
    ControllerDefinition,
    {
      async create(request, context) {
        const controller = controllerOf(request);
        const key = keyOf(request, context);
        const { runtime, spec } = recordOf(request, key.namespace);
        const { rootfs, options, netnsPath, annotations } = request;
        const wanted: SandboxCreate = {
          runtime: runtime?.name ?? '',
          runtimeOptions: runtime?.options,
          spec: spec?.value,
          rootfs,
          options,
          netnsPath,
          annotations,
        };
        await controller.create(key, wanted, context.signal);
        await events.created(key.namespace, key.id);
        return { sandboxId: key.id };
      },

      async start(request, context) {
        const controller = controllerOf(request);
        const key = keyOf(request, context);
        const { pid, createdAt, spec } = await controller.start(key);
        await events.started(key.namespace, key.id);
        // Address and version are for those who run in the daemon's process.
        const labels = new Map<string, string>();
        return {
          sandboxId: key.id,
          pid,
          createdAt: createdAt ?? epoch,
          labels,
          address: '',
          version: 0,
          spec,
        };
      },

      async platform(request) {
        controllerOf(request);
        throw fail('unimplemented', 'method Platform');
      },

      async stop(request, context) {
        await controllerOf(request).stop(keyOf(request, context), request.timeoutSecs);
        return {};
      },

      async wait(request, context) {
        const key = keyOf(request, context);
        const { exitStatus, exitedAt } = await controllerOf(request).wait(key, context.signal);
        await events.exited(key.namespace, key.id, exitStatus, exitedAt ?? epoch);
        return { exitStatus, exitedAt: exitedAt ?? epoch };
      },

      async status(request, context) {
        const controller = controllerOf(request);
        const found = await controller.status(keyOf(request, context), request.verbose);
        const { sandboxId, pid, state, info, createdAt, exitedAt, extra } = found;
        const times = { createdAt: createdAt ?? epoch, exitedAt: exitedAt ?? epoch };
        return { sandboxId, pid, state, info, ...times, extra, address: '', version: 0 };
      },

      async shutdown(request, context) {
        await controllerOf(request).shutdown(keyOf(request, context));
        return {};
      },

      async metrics(request, context) {
        return { metrics: await controllerOf(request).metrics(keyOf(request, context)) };
      },

      async update(request) {
        controllerOf(request);
        return {};
      },
    },
    { methods: { wait: { endless: true } } },
  );
}
