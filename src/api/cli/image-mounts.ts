// troupe images mount and unmount: the files of an image at a path of this machine, kept by a lease of that name.
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { codeOf, TroupeError } from '../client/index.ts';
import type { Context, Run } from './context.ts';
import { findImage, snapshotterOf } from './images.ts';

interface MountFlags {
  snapshotter?: string;
  rw?: boolean;
  expiration: string;
}

export function addImageMountCommands(images: Command, run: Run): void {
  images
    .command('mount')
    .description('mount an image at a directory; prints chain ID and directory')
    .argument('<image>')
    .argument('<directory>')
    .option('--snapshotter <name>', 'where the image is or will be unpacked')
    .option('--rw', 'let the files be changed; changes are lost at the unmount with --rm')
    .option('--expiration <duration>', 'how long the snapshot is kept, such as 90m', '1h')
    .action((name: string, target: string, flags: MountFlags) =>
      run((context) => mount(context, name, target, flags)),
    );

  images
    .command('unmount')
    .description('unmount an image')
    .argument('<directory>')
    .option('--rm', 'remove the snapshot as well')
    .option('--snapshotter <name>', 'where the image is unpacked')
    .action((target: string, flags: { rm?: boolean; snapshotter?: string }) =>
      run((context) => unmount(context, target, flags)),
    );
}

const unitsMs: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000 };

function durationMs(text: string): number {
  const match = /^(\d{1,9})([smh])$/.exec(text);
  if (match !== null) return Number(match[1]) * unitsMs[match[2]!]!;
  throw new TroupeError('invalid-argument', `"${text}" is not a duration such as 90s, 30m or 2h`);
}

async function mount(
  { client, host, signal, print }: Context,
  name: string,
  directory: string,
  flags: MountFlags,
): Promise<number> {
  const target = resolve(directory);
  const image = await findImage(client, name, signal);
  const snapshotter =
    snapshotterOf(flags, host.env).snapshotter ?? (await client.defaultSnapshotter({ signal }));
  const snapshots = client.snapshots(snapshotter);
  const mounter = host.mounter();
  // Not released at the end: it keeps the snapshot until the image is unmounted, or the time is over.
  const lease = await client.leases.acquire({
    id: target,
    expireAfterMs: durationMs(flags.expiration),
    labels: new Map([[`containerd.io/gc.ref.snapshot.${snapshotter}`, target]]),
    signal,
  });
  try {
    const chainId = await image.unpack(snapshotter, { signal, lease: lease.id });
    const options = { signal, lease: lease.id };
    const mounts = flags.rw
      ? await snapshots.prepare(target, chainId, options)
      : await snapshots.view(target, chainId, options);
    try {
      mounter.mountAll(mounts, target);
    } catch (error) {
      await snapshots.remove(target);
      throw error;
    }
    print(chainId);
    print(target);
    return 0;
  } catch (error) {
    await lease[Symbol.asyncDispose]();
    throw error;
  }
}

async function unmount(
  { client, host, signal, print }: Context,
  directory: string,
  flags: { rm?: boolean; snapshotter?: string },
): Promise<number> {
  const target = resolve(directory);
  await host.mounter().unmount(target);
  if (flags.rm) {
    const snapshotter =
      snapshotterOf(flags, host.env).snapshotter ?? (await client.defaultSnapshotter({ signal }));
    await ifThere(client.leases.delete(target, { signal }));
    await ifThere(client.snapshots(snapshotter).remove(target, { signal }));
  }
  print(target);
  return 0;
}

async function ifThere(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (codeOf(error) !== 'not-found') throw error;
  }
}
