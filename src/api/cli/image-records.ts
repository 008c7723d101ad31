// troupe images ls, check, usage, inspect, tag, label, rm and prune: what is named, and how much of it is here.
import type { Command } from 'commander';
import { codeOf, type Image, TroupeError } from '../client/index.ts';
import type { Context, Run } from './context.ts';
import { formatBytes, formatLabels, formatTable, printable } from './format.ts';
import { findImage, snapshotterOf } from './images.ts';
import { parseLabels } from './labels.ts';

export function addImageRecordCommands(images: Command, run: Run): void {
  images
    .command('ls')
    .alias('list')
    .description('list images with type, digest, size, platforms and labels')
    .argument('[filter...]', 'such as name~=busybox; several are alternatives')
    .option('-q, --quiet', 'only names')
    .action((filters: string[], flags: { quiet?: boolean }) =>
      run((context) => list(context, filters, flags.quiet ?? false)),
    );

  images
    .command('check')
    .description('show how much of each image is here, and whether it is unpacked')
    .argument('[filter...]')
    .option('-q, --quiet', 'only names of complete images that are unpacked')
    .option('--snapshotter <name>', 'where to look for unpacked layers')
    .action((filters: string[], flags: { quiet?: boolean; snapshotter?: string }) =>
      run((context) => check(context, filters, flags)),
    );

  images
    .command('usage')
    .description('show what the snapshots of an image take on disk')
    .argument('<image>')
    .option('-b, --bytes', 'sizes in bytes')
    .option('--snapshotter <name>', 'where the image is unpacked')
    .action((name: string, flags: { bytes?: boolean; snapshotter?: string }) =>
      run((context) => usage(context, name, flags)),
    );

  images
    .command('inspect')
    .description('print record, manifest and config of an image as JSON')
    .argument('<image>')
    .action((name: string) => run((context) => inspect(context, name)));

  images
    .command('tag')
    .description('give an image further names')
    .argument('<image>')
    .argument('<name...>')
    .option('--force', 'take names away from other images')
    .action((source: string, names: string[], flags: { force?: boolean }) =>
      run((context) => tag(context, source, names, flags.force ?? false)),
    );

  images
    .command('label')
    .description('set labels of an image; an empty value removes one')
    .argument('<image>')
    .argument('<label...>', 'key=value')
    .option('-r, --replace-all', 'remove all other labels')
    .action((name: string, labels: string[], flags: { replaceAll?: boolean }) =>
      run(async ({ client, signal, print }) => {
        const image = await findImage(client, name, signal);
        const wanted = parseLabels(labels);
        const updateMask = flags.replaceAll ? ['labels'] : [...wanted.keys()].map((key) => `labels.${key}`);
        const request = { image: { name: image.name, labels: wanted }, updateMask };
        const { image: updated } = await client.services.images.update(request, { signal });
        print(printable(formatLabels(updated?.labels ?? new Map())));
        return 0;
      }),
    );

  images
    .command('rm')
    .aliases(['delete', 'del', 'remove'])
    .description('remove names of images; what nothing names is collected')
    .argument('<image...>')
    .option('--sync', 'wait until the content is gone')
    .action((names: string[], flags: { sync?: boolean }) =>
      run((context) => remove(context, names, flags.sync ?? false)),
    );

  images
    .command('prune')
    .description('remove images that no container uses')
    .option('--all', 'all of them; without it nothing is removed')
    .option('--sync', 'wait until the content is gone')
    .action((flags: { all?: boolean; sync?: boolean }) =>
      run(async (context) => {
        if (flags.all !== true) return 0;
        const { client, signal } = context;
        const used = new Set(
          (await client.containers.list([], { signal })).map(({ record }) => record.image),
        );
        const names = (await client.images.list([], { signal })).map(({ name }) => name);
        return remove(
          context,
          names.filter((name) => !used.has(name)),
          flags.sync ?? false,
        );
      }),
    );
}

/** What an image of which something is missing shows in place of a number or a list. */
async function orNothing<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (['not-found', 'invalid-argument', 'unimplemented'].includes(codeOf(error))) return undefined;
    throw error;
  }
}

async function list(
  { client, signal, print }: Context,
  filters: readonly string[],
  quiet: boolean,
): Promise<number> {
  const rows: string[][] = [];
  for (const image of await client.images.list(filters, { signal })) {
    if (quiet) {
      print(printable(image.name));
      continue;
    }
    const size = await orNothing(client.imageSizeBytes(image, { signal }));
    const platforms = (await orNothing(client.imagePlatforms(image, { signal }))) ?? [];
    const { mediaType, digest } = image.target;
    rows.push([
      ...[image.name, mediaType, digest, size === undefined ? '-' : formatBytes(size)],
      platforms.length === 0 ? '-' : [...platforms].sort().join(','),
      formatLabels(image.record.labels, '-'),
    ]);
  }
  if (quiet) return 0;
  const header = ['REF', 'TYPE', 'DIGEST', 'SIZE', 'PLATFORMS', 'LABELS'];
  for (const line of formatTable(header, rows, ' ')) print(line);
  return 0;
}

async function check(
  { client, host, signal, print }: Context,
  filters: readonly string[],
  flags: { quiet?: boolean; snapshotter?: string },
): Promise<number> {
  const snapshotter =
    snapshotterOf(flags, host.env).snapshotter ?? (await client.defaultSnapshotter({ signal }));
  const rows: string[][] = [];
  for (const image of await client.images.list(filters, { signal })) {
    const found = await orNothing(client.imageStatus(image, { signal }));
    const unpacked = (await orNothing(image.isUnpacked(snapshotter, { signal }))) ?? false;
    if (flags.quiet) {
      if (found?.status === 'complete' && unpacked) print(printable(image.name));
      continue;
    }
    const known = found !== undefined && found.status !== 'unavailable';
    const { mediaType, digest } = image.target;
    rows.push([
      ...[image.name, mediaType, digest],
      known ? `${found.status} (${found.present}/${found.required})` : 'unavailable (0/?)',
      known ? `${formatBytes(found.presentBytes)}/${formatBytes(found.requiredBytes)}` : '-',
      String(unpacked),
    ]);
  }
  if (flags.quiet) return 0;
  const header = ['REF', 'TYPE', 'DIGEST', 'STATUS', 'SIZE', 'UNPACKED'];
  for (const line of formatTable(header, rows, ' ')) print(line);
  return 0;
}

async function usage(
  { client, host, signal, print }: Context,
  name: string,
  flags: { bytes?: boolean; snapshotter?: string },
): Promise<number> {
  const image = await findImage(client, name, signal);
  const snapshotter =
    snapshotterOf(flags, host.env).snapshotter ?? (await client.defaultSnapshotter({ signal }));
  const snapshots = client.snapshots(snapshotter);
  const rows: string[][] = [];
  for (let key = await image.chainId({ signal }); key !== ''; ) {
    const { size, inodes } = await snapshots.usage(key, { signal });
    rows.push([key, flags.bytes ? String(size) : formatBytes(Number(size)), String(inodes)]);
    key = (await snapshots.stat(key, { signal })).parent;
  }
  for (const line of formatTable(['KEY', 'SIZE', 'INODES'], rows, ' ')) print(line);
  return 0;
}

async function inspect({ client, signal, print }: Context, name: string): Promise<number> {
  const image = await findImage(client, name, signal);
  const { createdAt, updatedAt, labels } = image.record;
  const { mediaType, digest, size } = image.target;
  const manifest = await orNothing(image.manifest({ signal }));
  const config = await orNothing(image.config({ signal }));
  const time = (at: typeof createdAt): string | undefined =>
    at === undefined ? undefined : new Date(Number(at.seconds) * 1000 + at.nanos / 1e6).toISOString();
  const link = (blob: { mediaType: string; digest: string; size: bigint }) => ({
    mediaType: blob.mediaType,
    digest: blob.digest,
    size: Number(blob.size),
  });
  const shown = {
    name: image.name,
    target: { mediaType, digest, size: Number(size) },
    labels: Object.fromEntries(labels),
    createdAt: time(createdAt),
    updatedAt: time(updatedAt),
    platforms: (await orNothing(client.imagePlatforms(image, { signal }))) ?? [],
    manifest: manifest && { config: link(manifest.config), layers: manifest.layers.map(link) },
    config: config && {
      ...config,
      config: { ...config.config, labels: Object.fromEntries(config.config.labels) },
    },
  };
  print(JSON.stringify(shown, null, 4));
  return 0;
}

async function tag(
  { client, signal, print }: Context,
  source: string,
  names: readonly string[],
  force: boolean,
): Promise<number> {
  const image: Image = await findImage(client, source, signal);
  for (const name of names) {
    if (force) await client.images.put(name, image.target, { signal });
    else {
      const { mediaType, digest, size, annotations } = image.target;
      const target = { mediaType, digest, size, annotations };
      await client.services.images.create({ image: { name, target } }, { signal });
    }
    print(printable(name));
  }
  return 0;
}

async function remove(
  { client, signal, print, warn }: Context,
  names: readonly string[],
  sync: boolean,
): Promise<number> {
  let status = 0;
  for (const [i, given] of names.entries()) {
    try {
      const { name } = await findImage(client, given, signal);
      // One collection at the end takes what all of them have left.
      await client.images.delete(name, { sync: sync && i === names.length - 1, signal });
      print(printable(name));
    } catch (error) {
      if (codeOf(error) === 'not-found') warn(`${printable(given)}: image not found`);
      else if (names.length === 1 || signal.aborted) throw error;
      else {
        warn(`${printable(given)}: ${error instanceof TroupeError ? error.message : String(error)}`);
        status = 1;
      }
    }
  }
  return status;
}
