// The Mounts service: mounts that the daemon performs for a client and keeps.
import type { MountsActorProtocol } from '../../actors/mounts/protocol.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import { fail } from '../model/errors.ts';
import { timestampOfNs } from '../model/time.ts';
import { MountsDefinition } from '../proto/gen/services/mounts/v1/mounts.ts';
import { type ActivationInfo, ActiveMount, Mount } from '../proto/gen/types/mount.ts';
import { type BoundService, bindService } from './bind.ts';
import type { MetadataDeps } from './deps.ts';

export interface MountsDeps extends Pick<MetadataDeps, 'reader'> {
  readonly mounts: ActorRef<MountsActorProtocol>;
}

type Stored = NonNullable<ReturnType<MetadataDeps['reader']['mount']>>;

/** Making a file system takes its time; calls with a deadline of their own keep it. */
const activateMsMax = 600_000;

/** What is told later of active mounts: type, mount point and time. */
function infoOf(name: string, { active, system, labels }: Stored): ActivationInfo {
  return {
    name,
    active: active.map(({ type, point, mountedAtNs }) =>
      ActiveMount.create({
        mount: Mount.create({ type }),
        mountPoint: point,
        mountedAt: timestampOfNs(BigInt(mountedAtNs)),
      }),
    ),
    system: system.map((mount) => Mount.create({ ...mount, options: [...mount.options] })),
    labels: new Map(Object.entries(labels)),
  };
}

export function mountsService({ mounts, reader }: MountsDeps): BoundService {
  return bindService(MountsDefinition, {
    async activate({ name, mounts: given, labels, temporary }, { namespace, lease, deadlineMs, signal }) {
      if (name === '') throw fail('invalid-argument', 'a mount name is required');
      const request = { namespace, name, lease, mounts: given, labels, temporary };
      const { active, system } = await mounts.call('activate', request, {
        deadlineMs: Math.min(deadlineMs, activateMsMax),
        signal,
      });
      const info: ActivationInfo = {
        name,
        active: active.map(({ mount, point, mountedAtNs }) =>
          ActiveMount.create({ mount, mountPoint: point, mountedAt: timestampOfNs(mountedAtNs) }),
        ),
        system: [...system],
        labels,
      };
      return { info };
    },

    async deactivate({ name }, { namespace }) {
      await mounts.call('deactivate', { namespace, name });
      return {};
    },

    info({ name }, { namespace }) {
      const record = name === '' ? undefined : reader.mount(namespace, name);
      if (record === undefined) throw fail('not-found', `mount "${name}"`);
      return { info: infoOf(name, record) };
    },

    update() {
      throw fail('unimplemented', 'mounts cannot be updated');
    },

    // Filters are not looked at.
    async *list(_request, { namespace }) {
      for (const { name, record } of reader.mounts(namespace)) yield { info: infoOf(name, record) };
    },
  });
}
