// What a root file system needs of the daemon before a shim can mount it: special mounts are performed by the mount
// manager, under the task's id, and given back when the task is deleted. A spec that maps the ids of mounts is refused
// unless the runtime says that it can.
import { codeOf, fail, messageOf, wrap } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import type { ShimKey, ShimRuntime } from '../../api/model/ports/shim.ts';
import { troupeRuntime } from '../../api/model/shim-group.ts';
import { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import type { RuntimeInfo } from '../../api/proto/gen/types/introspection.ts';
import { Mount } from '../../api/proto/gen/types/mount.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { MetadataReader } from '../metadata/protocol.ts';
import { isSpecial } from '../mounts/plan.ts';
import type { MountsActorProtocol } from '../mounts/protocol.ts';
import type { ShimLaunch } from '../shim/protocol.ts';

export interface TaskMounts {
  /** What the shim is to mount in place of `rootfs`: the same, where nothing needs the daemon. */
  activate(key: ShimKey, launch: ShimLaunch, rootfs: Mount[], signal: AbortSignal): Promise<Mount[]>;
  /** Gives back what the task has. Fine when there is nothing. */
  deactivate(key: ShimKey): Promise<void>;
}

export interface TaskMountsDependencies {
  readonly mounts: ActorRef<MountsActorProtocol>;
  readonly reader: Pick<MetadataReader, 'mount'>;
  /** Types that the daemon mounts itself. */
  readonly handlers: ReadonlySet<string>;
  readonly runtime: Pick<ShimRuntime, 'resolve' | 'info'>;
  readonly log: Log;
}

/** In what a runtime says of itself: types that it mounts itself, with commas between; `*` at the end stands for any end. */
export const allowedMountsAnnotation = 'containerd.io/runtime-allow-mounts';
/** Keeps an activation from the collector as long as there is such a container. */
const ownerLabel = 'containerd.io/gc.bref.container';
const infoDeadlineMs = 10_000;
const activateDeadlineMs = 600_000;
const infosMax = 256;

export function createTaskMounts(deps: TaskMountsDependencies): TaskMounts {
  const { mounts, reader, handlers, log } = deps;
  const infos = new Map<string, Promise<RuntimeInfo>>();

  /** Asked once of each runtime and options; one that failed is asked again. */
  function infoOf({ runtime, options }: ShimLaunch): Promise<RuntimeInfo> {
    const asked = options === undefined ? '' : Buffer.from(Any.encode(options).finish()).toString('base64');
    const key = `${runtime}\0${asked}`;
    let info = infos.get(key);
    if (info === undefined) {
      info = deps.runtime
        .resolve(runtime)
        .then((binary) => deps.runtime.info(binary, options, infoDeadlineMs));
      if (infos.size >= infosMax) infos.clear();
      infos.set(key, info);
      info.catch(() => infos.delete(key));
    }
    return info;
  }

  async function allowedBy(launch: ShimLaunch): Promise<string[]> {
    // These two mount nothing special, and asking takes time.
    if (launch.runtime === 'io.containerd.runc.v2' || launch.runtime === troupeRuntime) return [];
    try {
      const { annotations } = await infoOf(launch);
      const text = annotations.get(allowedMountsAnnotation) ?? '';
      return text
        .split(',')
        .map((type) => type.trim())
        .filter((type) => type !== '');
    } catch (error) {
      log.debug('runtime does not say what it mounts', { runtime: launch.runtime, error: messageOf(error) });
      return [];
    }
  }

  async function checkMappedMounts(launch: ShimLaunch): Promise<void> {
    if (!mapsMounts(launch.spec)) return;
    const refused = (why: string, cause?: unknown) =>
      fail('unknown', `runtime "${launch.runtime}" ${why}: the spec maps ids of mounts`, cause);
    const info = await infoOf(launch).catch((error) => {
      throw refused(`does not say what it can do (${messageOf(error)})`, error);
    });
    const enabled = mappedMountsFeature(info);
    if (enabled === undefined) throw refused('has no entry mountExtensions.idmap among its features');
    if (!enabled) throw refused('has mountExtensions.idmap disabled');
  }

  return {
    async activate(key, launch, rootfs, signal) {
      await checkMappedMounts(launch);
      if (!rootfs.some(({ type }) => isSpecial(type, handlers))) return rootfs;
      const { namespace, id } = key;
      const labels = new Map([[ownerLabel, id]]);
      const allowed = launch.join === undefined ? await allowedBy(launch) : [];
      const request = { namespace, name: id, lease: undefined, mounts: rootfs, labels, temporary: false };
      const limits = { deadlineMs: activateDeadlineMs, signal };
      try {
        const { system } = await mounts.call('activate', { ...request, allowed }, limits);
        return [...system];
      } catch (error) {
        const code = codeOf(error);
        if (code === 'unimplemented') return rootfs;
        // Left by a task of this id, or made by the client.
        const recorded = code === 'already-exists' ? reader.mount(namespace, id) : undefined;
        if (recorded === undefined) throw wrap(`mounts of task "${id}"`, error);
        return recorded.system.map((mount) => Mount.create({ ...mount, options: [...mount.options] }));
      }
    },

    async deactivate({ namespace, id }) {
      if (reader.mount(namespace, id) === undefined) return;
      try {
        await mounts.call('deactivate', { namespace, name: id }, { deadlineMs: activateDeadlineMs });
      } catch (error) {
        if (codeOf(error) !== 'not-found') throw wrap(`mounts of task "${id}"`, error);
      }
    },
  };
}

/** Whether a spec has mounts with mappings of their own (config-linux of the runtime specification). */
function mapsMounts(spec: Uint8Array | undefined): boolean {
  const bytes = Buffer.from(spec ?? []);
  // Most specs do not even name them: those are not parsed.
  if (!bytes.includes('"uidMappings"') && !bytes.includes('"gidMappings"')) return false;
  try {
    const parsed = JSON.parse(bytes.toString()) as {
      mounts?: { uidMappings?: []; gidMappings?: [] }[];
    } | null;
    return (parsed?.mounts ?? []).some(
      ({ uidMappings = [], gidMappings = [] }) => uidMappings.length > 0 || gidMappings.length > 0,
    );
  } catch {
    // The runtime says what is wrong with it.
    return false;
  }
}

function mappedMountsFeature({ features }: RuntimeInfo): boolean | undefined {
  try {
    const parsed = JSON.parse(Buffer.from(features?.value ?? []).toString()) as {
      linux?: { mountExtensions?: { idmap?: { enabled?: unknown } } };
    };
    const enabled = parsed.linux?.mountExtensions?.idmap?.enabled;
    return typeof enabled === 'boolean' ? enabled : undefined;
  } catch {
    return undefined;
  }
}
