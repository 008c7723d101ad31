// troupe pull, images and rmi: images come, are listed, and go.
import type { Command } from 'commander';
import {
  type Client,
  type ClientPullOptions,
  codeOf,
  familiarReference,
  type Image,
  normalizeReference,
  TroupeError,
} from '../client/index.ts';
import type { Context, Host, Run } from './context.ts';
import { formatAge, formatBytes, formatTable, printable, shortDigest } from './format.ts';
import { addArchiveCommands } from './image-archives.ts';
import { addImageMountCommands } from './image-mounts.ts';
import { addImageRecordCommands } from './image-records.ts';
import { collect } from './labels.ts';
import { pullProgress } from './progress.ts';

export interface RegistryFlags {
  platform?: string;
  plainHttp?: boolean;
  insecure?: boolean;
  user?: string;
  snapshotter?: string;
  quiet?: boolean;
}

interface PullFlags extends RegistryFlags {
  unpack: boolean;
  maxConcurrentDownloads: string;
}

export function addImageCommands(program: Command, run: Run): void {
  addPullCommand(program, run);
  addPushCommand(program, run);

  const images = program
    .command('images')
    .aliases(['image', 'i'])
    .description('list images; with a command, manage them')
    .option('-q, --quiet', 'only names')
    .action((flags: { quiet?: boolean }) => run((context) => listImages(context, flags.quiet ?? false)));
  addImageRecordCommands(images, run);
  addArchiveCommands(images, run);
  addImageMountCommands(images, run);
  addPullCommand(images, run);
  addPushCommand(images, run);

  program
    .command('rmi')
    .description('remove images')
    .argument('<image...>')
    .option('--sync', 'wait until their content is gone')
    .action((names: string[], flags: { sync?: boolean }) =>
      run(async ({ client, signal, print }) => {
        for (const name of names) {
          const image = await findImage(client, name, signal);
          await client.images.delete(image.name, { sync: flags.sync ?? false, signal });
          print(image.name);
        }
        return 0;
      }),
    );
}

function addPullCommand(parent: Command, run: Run): void {
  parent
    .command('pull')
    .description('fetch an image from a registry and unpack it')
    .argument('<image>', 'such as alpine, or 127.0.0.1:5000/library/busybox:latest')
    .option('--platform <platform>', 'os[/arch[/variant]] of the image')
    .option('--plain-http', 'speak http with the registry')
    .option('--insecure', 'accept any certificate of the registry')
    .option(
      '-u, --user <user[:password]>',
      'for the registry; the password may come from TROUPE_REGISTRY_PASSWORD',
    )
    .option('--snapshotter <name>', 'where to unpack')
    .option('--no-unpack', 'only fetch')
    .option('--max-concurrent-downloads <count>', 'layers fetched at a time', '3')
    .option('-q, --quiet', 'no progress')
    .action((name: string, flags: PullFlags) =>
      run(async (context) => {
        const { name: pulled } = await pullImage(context, normalizeReference(name), flags, {
          unpack: flags.unpack,
          maxConcurrentDownloads: parseCount(flags.maxConcurrentDownloads),
        });
        context.print(pulled);
        return 0;
      }),
    );
}

interface PushFlags extends Omit<RegistryFlags, 'platform' | 'snapshotter'> {
  platform?: string[];
  maxConcurrentUploads: string;
}

function addPushCommand(parent: Command, run: Run): void {
  parent
    .command('push')
    .description('send an image to a registry')
    .argument('<reference>', 'where to, such as registry.example.com/app:1')
    .argument('[image]', 'the image, when it has another name here')
    .option('--platform <platform>', 'only manifests for this platform; may be given again', collect)
    .option('--plain-http', 'speak http with the registry')
    .option('--insecure', 'accept any certificate of the registry')
    .option(
      '-u, --user <user[:password]>',
      'for the registry; the password may come from TROUPE_REGISTRY_PASSWORD',
    )
    .option('--max-concurrent-uploads <count>', 'layers sent at a time', '3')
    .option('-q, --quiet', 'no progress')
    .action((reference: string, source: string | undefined, flags: PushFlags) =>
      run(async ({ client, host, signal }) => {
        const to = normalizeReference(reference);
        const image = await findImage(client, source ?? reference, signal);
        using progress = flags.quiet === true ? undefined : pullProgress(host.stderr);
        await client.push(to, {
          signal,
          source: image.name,
          platforms: flags.platform ?? [],
          plainHttp: flags.plainHttp ?? false,
          insecureTls: flags.insecure ?? false,
          maxConcurrentUploads: parseCount(flags.maxConcurrentUploads),
          ...(flags.user === undefined
            ? {}
            : { auth: credentials(flags.user, host.env['TROUPE_REGISTRY_PASSWORD']) }),
          ...(progress === undefined ? {} : { onProgress: (one) => progress.update(one) }),
        });
        return 0;
      }),
    );
}

async function listImages({ client, signal, print }: Context, quiet: boolean): Promise<number> {
  const images = await client.images.list([], { signal });
  if (quiet) {
    for (const { name } of images) print(printable(name));
    return 0;
  }
  const rows: string[][] = [];
  for (const image of images) {
    const size = await image.sizeBytes({ signal }).catch((error: unknown) => {
      // An image of another platform, or one that was never fetched whole.
      if (['not-found', 'invalid-argument', 'unimplemented'].includes(codeOf(error))) return undefined;
      throw error;
    });
    rows.push([
      familiarReference(image.name),
      shortDigest(image.target.digest),
      formatAge(image.record.createdAt, Date.now()),
      size === undefined ? '-' : formatBytes(size),
    ]);
  }
  for (const line of formatTable(['IMAGE', 'DIGEST', 'CREATED', 'SIZE'], rows)) print(line);
  return 0;
}

/** An image by its record's name, or by the short form of it. */
export async function findImage(client: Client, name: string, signal: AbortSignal): Promise<Image> {
  try {
    return await client.images.get(name, { signal });
  } catch (error) {
    if (codeOf(error) !== 'not-found') throw error;
  }
  return await client.images.get(normalizeReference(name), { signal });
}

export async function pullImage(
  { client, host, signal }: Context,
  name: string,
  flags: RegistryFlags,
  extra: Pick<ClientPullOptions, 'unpack' | 'maxConcurrentDownloads'> = {},
): Promise<Image> {
  using progress = flags.quiet === true ? undefined : pullProgress(host.stderr);
  const auth = registryCredentials(flags, host.env);
  return await client.pull(name, {
    signal,
    plainHttp: flags.plainHttp ?? false,
    insecureTls: flags.insecure ?? false,
    ...(flags.platform === undefined ? {} : { platform: flags.platform }),
    ...snapshotterOf(flags, host.env),
    ...(auth === undefined ? {} : { auth }),
    ...(progress === undefined ? {} : { onProgress: (one) => progress.update(one) }),
    ...extra,
  });
}

/** The flag, else CONTAINERD_SNAPSHOTTER, else what the namespace says. */
export function snapshotterOf(flags: { snapshotter?: string }, env: Host['env']): { snapshotter?: string } {
  const snapshotter = flags.snapshotter ?? env['CONTAINERD_SNAPSHOTTER'];
  return snapshotter === undefined || snapshotter === '' ? {} : { snapshotter };
}

/** What `--user` says; the password may come from the environment. */
export function registryCredentials(
  { user }: RegistryFlags,
  env: Context['host']['env'],
): { username: string; secret: string } | undefined {
  return user === undefined ? undefined : credentials(user, env['TROUPE_REGISTRY_PASSWORD']);
}

function credentials(user: string, password: string | undefined): { username: string; secret: string } {
  const colon = user.indexOf(':');
  const secret = colon < 0 ? password : user.slice(colon + 1);
  if (secret === undefined) {
    throw new TroupeError(
      'invalid-argument',
      '--user needs a password, after a colon or in TROUPE_REGISTRY_PASSWORD',
    );
  }
  return { username: colon < 0 ? user : user.slice(0, colon), secret };
}

function parseCount(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1 && count <= 64) return count;
  throw new TroupeError('invalid-argument', `"${text}" is not a count from 1 to 64`);
}
