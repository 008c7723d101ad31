// `delete`: cleans up after a container whose shim is gone or has given it up.
import { writeSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fail, messageOf } from '../../api/model/errors.ts';
import { systemClock, timestampOfNs } from '../../api/model/time.ts';
import { DeleteResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { createHost } from '../../io/oci/host.ts';
import { loadRecord } from '../../io/oci/records.ts';
import { loadOptions, settingsFrom } from '../../io/oci/settings.ts';
import { openFdWatch } from '../../io/sys/fd-watch.ts';
import { unmountRecursive } from '../../io/sys/mount.ts';
import { createSys } from '../../io/sys/sys.ts';
import type { ShimArguments } from './arguments.ts';

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
    const host = createHost(watch, env, clock);
    const record = loadRecord(bundle);
    const place = record?.place ?? {
      id: args.id,
      namespace: args.namespace,
      bundle,
      settings: settingsFrom(args.namespace, loadOptions(bundle)),
    };
    // cgroups of systemd are removed by the runtime without being told to.
    const plain = { ...place, settings: { ...place.settings, systemdCgroup: false } };
    try {
      await host.runtime.delete(plain, undefined, true, { deadlineMs });
    } catch (error) {
      writeSync(2, `delete of ${place.id}: ${messageOf(error)}\n`);
    }
    await unmountRecursive(createSys(), join(bundle, 'rootfs'));
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
