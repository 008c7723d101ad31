// Sandbox controllers: sandboxes that are shims of their own, and pods by their name.
import type { MetadataProtocol } from '../../actors/metadata/protocol.ts';
import { podSandboxes } from '../../actors/sandbox/pods.ts';
import type { SandboxController } from '../../actors/sandbox/protocol.ts';
import { ShimSandboxes } from '../../actors/sandbox/shims.ts';
import type { SandboxEvents } from '../../api/grpc/sandbox-controller.ts';
import { sandboxBundles } from '../../api/model/shim-group.ts';
import { SandboxCreate, SandboxExit, SandboxStart } from '../../api/proto/gen/events/sandbox.ts';
import { Sandbox } from '../../api/proto/gen/types/sandbox.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { Metadata } from './core.ts';
import { shimDependencies, shimRuntime } from './shims.ts';
import { type Daemon, pluginType, type Registration } from './types.ts';

export function sandboxPlugins(daemon: Daemon): Registration[] {
  const { clock, root, system } = daemon;
  return [
    {
      type: pluginType.sandboxController,
      id: 'shim',
      requires: [pluginType.event, pluginType.metadata],
      async init(context): Promise<SandboxController> {
        const { reader } = context.get<Metadata>(pluginType.metadata);
        const runtime = shimRuntime(daemon, sandboxBundles);
        const sandboxes = new ShimSandboxes(system, {
          ...shimDependencies(daemon, runtime),
          nowNs: () => clock.nowNs(),
        });
        await root.startChild(sandboxes.child());
        await sandboxes.recover({
          runtimeOf({ namespace, id }) {
            const record = reader.sandbox(namespace, id);
            return record === undefined ? undefined : Sandbox.decode(record).runtime?.name;
          },
        });
        return sandboxes;
      },
    },
    { type: pluginType.podSandboxController, id: 'podsandbox', init: () => podSandboxes() },
  ];
}

export function sandboxEvents(metadata: ActorRef<Pick<MetadataProtocol, 'events.publish'>>): SandboxEvents {
  const publish = async (namespace: string, topic: string, typeUrl: string, value: Uint8Array) => {
    await metadata.call('events.publish', { namespace, topic, typeUrl, value });
  };
  return {
    created: (namespace, sandboxId) =>
      publish(
        namespace,
        '/sandboxes/create',
        SandboxCreate.$type,
        SandboxCreate.encode(SandboxCreate.create({ sandboxId })).finish(),
      ),
    started: (namespace, sandboxId) =>
      publish(
        namespace,
        '/sandboxes/start',
        SandboxStart.$type,
        SandboxStart.encode(SandboxStart.create({ sandboxId })).finish(),
      ),
    exited: (namespace, sandboxId, exitStatus, exitedAt) =>
      publish(
        namespace,
        '/sandboxes/exit',
        SandboxExit.$type,
        SandboxExit.encode(SandboxExit.create({ sandboxId, exitStatus, exitedAt })).finish(),
      ),
  };
}
