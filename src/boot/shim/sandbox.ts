// A shim that is a sandbox: the actor that holds it, and its service, beside those of its containers.
import type { ContainerDirectory } from '../../actors/container/directory.ts';
import { sandboxHostActor } from '../../actors/sandbox-host/actor.ts';
import { type SandboxHostProtocol, sandboxHostPath } from '../../actors/sandbox-host/protocol.ts';
import { hostPlatform } from '../../api/model/platform.ts';
import type { Log } from '../../api/model/ports/log.ts';
import { sandboxHostService } from '../../api/ttrpc/sandbox-service.ts';
import type { TtrpcService } from '../../api/ttrpc/service.ts';
import type { Host } from '../../io/oci/host.ts';
import { actorChild, Supervisor, type SupervisorEvent } from '../../supervisor/supervisor.ts';
import type { ActorSystem } from '../../supervisor/system.ts';

export interface HeldSandbox {
  readonly service: TtrpcService;
  /** From Create to Shutdown. */
  held(): boolean;
}

export async function holdSandbox(given: {
  readonly id: string;
  readonly bundle: string;
  readonly system: ActorSystem;
  readonly host: Host;
  readonly directory: ContainerDirectory;
  readonly log: Log;
  readonly intensity: { restartsMax: number; withinMs: number };
  readonly onEvent: (event: SupervisorEvent) => void;
}): Promise<HeldSandbox> {
  const { id, bundle, system, host, directory, log, intensity, onEvent } = given;
  const args = { id, bundle, host, containers: () => directory.all(), log };
  await Supervisor.start(system, {
    path: 'sandboxes',
    strategy: 'one_for_one',
    intensity,
    onEvent,
    children: [
      actorChild(system, 'sandbox', sandboxHostActor, args, { restart: 'permanent', path: sandboxHostPath }),
    ],
  });
  const platform = hostPlatform({ platform: process.platform, arch: process.arch });
  return {
    service: sandboxHostService(system.ref<SandboxHostProtocol>(sandboxHostPath), id, platform),
    held: () => host.sandboxes.load(bundle) !== undefined,
  };
}
