// troupe snapshots: layers and working directories of one snapshotter.
import { randomBytes } from 'node:crypto';
import type { Command } from 'commander';
import { type Client, TroupeError } from '../client/index.ts';
import { formatRfc3339, timestampOfNs } from '../model/time.ts';
import type { Context, Run } from './context.ts';
import { formatBytes, formatLabels, formatTable, printable } from './format.ts';
import { findImage, snapshotterOf } from './images.ts';
import { parseLabels } from './labels.ts';

type Snapshots = ReturnType<Client['snapshots']>;
type Mount = Awaited<ReturnType<Snapshots['mounts']>>[number];

const kinds = ['Unknown', 'View', 'Active', 'Committed'];
const gcRoot = 'containerd.io/gc.root';
const listedMax = 1_000_000;

interface MountFlags {
  target?: string;
  mounts?: boolean;
}

interface DiffFlags {
  mediaType: string;
  label?: string[];
  keep?: boolean;
}

export function addSnapshotCommands(program: Command, run: Run): void {
  const group = program
    .command('snapshots')
    .alias('snapshot')
    .description('manage snapshots')
    .option('--snapshotter <name>', 'CONTAINERD_SNAPSHOTTER, or what the namespace says');
  const on = (work: (context: Context, snapshots: Snapshots) => Promise<number>): Promise<void> =>
    run(async (context) => {
      const { client, host, signal } = context;
      const { snapshotter } = snapshotterOf(group.opts<{ snapshotter?: string }>(), host.env);
      return work(context, client.snapshots(snapshotter ?? (await client.defaultSnapshotter({ signal }))));
    });
  addReaders(group, on);
  addWriters(group, on);
}

type On = (work: (context: Context, snapshots: Snapshots) => Promise<number>) => Promise<void>;

function addReaders(group: Command, on: On): void {
  group
    .command('ls')
    .alias('list')
    .description('list snapshots')
    .action(() =>
      on(async ({ signal, print }, snapshots) => {
        const rows = (await all(snapshots, signal)).map(({ name, parent, kind }) => [
          ...[name, parent, kinds[kind] ?? 'Unknown'],
        ]);
        for (const line of formatTable(['KEY', 'PARENT', 'KIND'], rows, ' ')) print(line);
        return 0;
      }),
    );

  group
    .command('tree')
    .description('show which snapshot stands on which')
    .action(() =>
      on(async ({ signal, print }, snapshots) => {
        for (const line of treeLines(await all(snapshots, signal))) print(line);
        return 0;
      }),
    );

  group
    .command('info')
    .description('print a snapshot as JSON')
    .argument('<key>')
    .action((key: string) =>
      on(async ({ signal, print }, snapshots) => {
        const { name, parent, kind, createdAt, updatedAt, labels } = await snapshots.stat(key, { signal });
        const time = (at: typeof createdAt): string | undefined => at && formatRfc3339(at);
        const shown = {
          Kind: kinds[kind],
          Name: name,
          ...(parent === '' ? {} : { Parent: parent }),
          ...(labels.size === 0 ? {} : { Labels: Object.fromEntries(labels) }),
          Created: time(createdAt),
          Updated: time(updatedAt),
        };
        print(JSON.stringify(shown, null, 4));
        return 0;
      }),
    );

  group
    .command('usage')
    .description('show what snapshots take on disk')
    .argument('[key...]', 'all unless said')
    .option('-b, --bytes', 'sizes in bytes')
    .action((keys: string[], flags: { bytes?: boolean }) =>
      on(async ({ signal, print }, snapshots) => {
        const wanted = keys.length > 0 ? keys : (await all(snapshots, signal)).map(({ name }) => name);
        const rows: string[][] = [];
        for (const key of wanted) {
          const { size, inodes } = await snapshots.usage(key, { signal });
          rows.push([key, flags.bytes ? String(size) : formatBytes(Number(size)), String(inodes)]);
        }
        for (const line of formatTable(['KEY', 'SIZE', 'INODES'], rows, ' ')) print(line);
        return 0;
      }),
    );

  group
    .command('mounts')
    .aliases(['mount', 'm'])
    .description('print the commands that mount a snapshot')
    .argument('<directory>')
    .argument('<key>')
    .action((target: string, key: string) =>
      on(async ({ signal, print }, snapshots) => {
        printMounts(print, target, await snapshots.mounts(key, { signal }));
        return 0;
      }),
    );

  group
    .command('diff')
    .description('write what a snapshot changes as a layer to standard output')
    .argument('<key>')
    .argument('[other]', 'compare with this one in place of the parent')
    .option('--media-type <type>', 'of the layer', 'application/vnd.oci.image.layer.v1.tar+gzip')
    .option('--label <key=value>', 'of the blob', (value: string, list: string[] = []) => [...list, value])
    .option('--keep', 'keep the blob; prints its digest in place of its bytes')
    .action((key: string, other: string | undefined, flags: DiffFlags) =>
      on((context, snapshots) => diff(context, snapshots, key, other, flags)),
    );
}

function addWriters(group: Command, on: On): void {
  const mountable = (name: 'prepare' | 'view', description: string): void => {
    group
      .command(name)
      .description(description)
      .argument('<key>')
      .argument('[parent]')
      .option('-t, --target <directory>', 'print the commands that mount it there')
      .option('--mounts', 'print the mounts as JSON')
      .action((key: string, parent: string | undefined, flags: MountFlags) =>
        on(async ({ signal, print }, snapshots) => {
          const options = name === 'prepare' ? { signal, labels: rootLabels() } : { signal };
          const mounts = await snapshots[name](key, parent ?? '', options);
          if (flags.target !== undefined) printMounts(print, flags.target, mounts);
          if (flags.mounts) print(JSON.stringify(mounts.map(mountJson), null, 4));
          return 0;
        }),
      );
  };
  mountable('prepare', 'make a snapshot to write to');
  mountable('view', 'make a snapshot to read from');

  group
    .command('commit')
    .description('make a committed snapshot of one that was written to')
    .argument('<name>')
    .argument('<key>')
    .action((name: string, key: string) =>
      on(async ({ signal }, snapshots) => {
        await snapshots.commit(name, key, { signal, labels: rootLabels() });
        return 0;
      }),
    );

  group
    .command('label')
    .description('set labels of a snapshot; an empty value removes one')
    .argument('<key>')
    .argument('<label...>', 'key=value')
    .action((key: string, labels: string[]) =>
      on(async ({ client, signal, print }, { snapshotter }) => {
        const wanted = parseLabels(labels);
        const updateMask = [...wanted.keys()].map((one) => `labels.${one}`);
        const info = { name: key, labels: wanted };
        const updated = await client.services.snapshots.update({ snapshotter, info, updateMask }, { signal });
        print(printable(formatLabels(updated.info?.labels ?? new Map())));
        return 0;
      }),
    );

  group
    .command('rm')
    .aliases(['delete', 'del', 'remove'])
    .description('remove snapshots')
    .argument('<key...>')
    .action((keys: string[]) =>
      on(async ({ signal }, snapshots) => {
        for (const key of keys) await snapshots.remove(key, { signal });
        return 0;
      }),
    );

  group
    .command('unpack')
    .description('unpack an image; prints its chain ID')
    .argument('<image>')
    .action((name: string) =>
      on(async ({ client, signal, print }, { snapshotter }) => {
        const image = await findImage(client, name, signal);
        await using lease = await client.leases.acquire({ signal });
        print(await image.unpack(snapshotter, { signal, lease: lease.id }));
        return 0;
      }),
    );
}

async function all(snapshots: Snapshots, signal: AbortSignal) {
  const found = [];
  for await (const info of snapshots.list([], { signal })) {
    found.push(info);
    if (found.length > listedMax) throw new TroupeError('resource-exhausted', `over ${listedMax} snapshots`);
  }
  return found;
}

/** What is prepared by hand stays until it is removed by hand. */
function rootLabels(): Map<string, string> {
  return new Map([[gcRoot, formatRfc3339(timestampOfNs(BigInt(Date.now()) * 1_000_000n))]]);
}

function printMounts(print: (line: string) => void, target: string, mounts: readonly Mount[]): void {
  for (const { type, source, options } of mounts) {
    const tail = options.length === 0 ? '' : ` -o ${options.join(',')}`;
    print(printable(`mount -t ${type} ${source} ${target}${tail}`));
  }
}

function mountJson({ type, source, target, options }: Mount) {
  return { Type: type, Source: source, Target: target, Options: options };
}

function treeLines(infos: readonly { name: string; parent: string }[]): string[] {
  const children = new Map<string, string[]>();
  const names = new Set(infos.map(({ name }) => name));
  for (const { name, parent } of infos) {
    const above = names.has(parent) ? parent : '';
    children.set(above, [...(children.get(above) ?? []), name]);
  }
  const lines: string[] = [];
  const waiting = (children.get('') ?? []).map((name) => ({ name, depth: 0 })).reverse();
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const { name, depth } = next;
    lines.push(`${'  '.repeat(depth)}${depth === 0 ? ' ' : '\\_ '}${printable(name)}`);
    for (const child of (children.get(name) ?? []).reverse()) waiting.push({ name: child, depth: depth + 1 });
  }
  return lines;
}

async function diff(
  { client, host, signal, print }: Context,
  snapshots: Snapshots,
  key: string,
  other: string | undefined,
  flags: DiffFlags,
): Promise<number> {
  await using lease = await client.leases.acquire({ signal });
  const options = { signal, lease: lease.id };
  const views: string[] = [];
  const mountsOf = async (name: string): Promise<Mount[]> => {
    const info = name === '' ? undefined : await snapshots.stat(name, { signal });
    if (info !== undefined && info.kind !== 3) return snapshots.mounts(name, { signal });
    const view = `${name}-view-${randomBytes(4).toString('hex')}`;
    const mounts = await snapshots.view(view, name, options);
    views.push(view);
    return mounts;
  };
  try {
    const [left, right] =
      other === undefined
        ? [await mountsOf((await snapshots.stat(key, { signal })).parent), await mountsOf(key)]
        : [await mountsOf(key), await mountsOf(other)];
    const labels = parseLabels(flags.label ?? []);
    if (flags.keep) for (const [name, value] of rootLabels()) labels.set(name, value);
    const made = await client.services.diff.diff(
      { left, right, mediaType: flags.mediaType, labels },
      { ...options, deadlineMs: Number.POSITIVE_INFINITY },
    );
    const digest = made.diff?.digest ?? '';
    if (flags.keep) print(digest);
    else for await (const chunk of client.content.read(digest, 0n, { signal })) host.stdout.write(chunk);
    return 0;
  } finally {
    for (const view of views) await snapshots.remove(view);
  }
}
