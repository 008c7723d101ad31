// `delete`: cleans up after a container whose shim is gone or has given it up.
import { readdirSync, readFileSync, writeSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fail, messageOf } from '../../api/model/errors.ts';
import { isSandboxBundle } from '../../api/model/shim-group.ts';
import { systemClock, timestampOfNs } from '../../api/model/time.ts';
import { DeleteResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { createHost, type Host } from '../../io/oci/host.ts';
import { loadRecord } from '../../io/oci/records.ts';
import { loadOptions, settingsFrom } from '../../io/oci/settings.ts';
import { openFdWatch } from '../../io/sys/fd-watch.ts';
import { unmountRecursive } from '../../io/sys/mount.ts';
import { createSys } from '../../io/sys/sys.ts';
import type { ShimArguments } from './arguments.ts';
import { bundlesOfContainers } from './bundles.ts';

const killedStatus = 137;
const deadlineMs = 30_000;

export async function remove(args: ShimArguments, env: NodeJS.ProcessEnv): Promise<void> {
  const here = process.cwd();
  // Called from another bundle of the namespace, the id names a sibling.
  const bundle =
    args.bundle !== '' ? args.bundle : basename(here) === args.id ? here : join(dirname(here), args.id);
  if (bundle === '' || bundle === '/') throw fail('invalid-argument', 'delete needs -bundle');
  const clock = systemClock();
  const watch = openFdWatch();
  try {
    const host = createHost({ watch, env, clock });
    if (isSandboxBundle(bundle)) {
      for (const inside of containersOf(bundle, args.id)) {
        await removeContainer({ ...args, id: basename(inside) }, inside, host);
      }
      await unmountRecursive(createSys(), join(bundle, 'rootfs'));
      host.sandboxes.forget(bundle);
    } else await removeContainer(args, bundle, host);
    const record = loadRecord(bundle);
    const response = DeleteResponse.encode(
      DeleteResponse.create({
        pid: record?.init.pid ?? 0xffff_ffff,
        exitStatus: record?.init.exit?.status ?? killedStatus,
        exitedAt: timestampOfNs(
          record?.init.exit === undefined ? clock.nowNs() : BigInt(record.init.exit.atNs),
        ),
      }),
    ).finish();
    host.records.deleted(bundle, response);
    writeSync(1, response);
  } finally {
    await watch.stop();
  }
}

/** Ends what is left of a container; what cannot be done goes to stderr, where the daemon looks for it. */
async function removeContainer({ id, namespace }: ShimArguments, bundle: string, host: Host): Promise<void> {
  const place = loadRecord(bundle)?.place ?? {
    id,
    namespace,
    bundle,
    settings: settingsFrom(namespace, loadOptions(bundle)),
  };
  // cgroups of systemd are removed by the runtime without being told to.
  const plain = { ...place, settings: { ...place.settings, systemdCgroup: false } };
  try {
    await host.runtime.delete(plain, undefined, true, { deadlineMs });
  } catch (error) {
    writeSync(2, `delete of ${place.id}: ${messageOf(error)}\n`);
  }
  await unmountRecursive(createSys(), join(bundle, 'rootfs'));
}

/** Bundles of the tasks that have joined a sandbox: the daemon has written its id into them. */
function containersOf(bundle: string, sandboxId: string): string[] {
  const directory = bundlesOfContainers(bundle);
  try {
    return readdirSync(directory)
      .map((name) => join(directory, name))
      .filter((path) => sandboxOf(path) === sandboxId);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

function sandboxOf(bundle: string): string | undefined {
  try {
    return readFileSync(join(bundle, 'sandbox'), 'utf8').trim();
  } catch {
    return undefined;
  }
}
