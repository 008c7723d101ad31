// troupe images import, export and convert.
import { createReadStream, createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { finished } from 'node:stream/promises';
import type { Command } from 'commander';
import { TroupeError } from '../client/index.ts';
import type { Context, Host, Run } from './context.ts';
import { printable } from './format.ts';
import { findImage, snapshotterOf } from './images.ts';
import { collect } from './labels.ts';

interface ImportFlags {
  baseName?: string;
  digests?: boolean;
  skipDigestForNamed?: boolean;
  indexName?: string;
  allPlatforms?: boolean;
  platform?: string;
  unpack: boolean;
  compressBlobs?: boolean;
  discardUnpackedLayers?: boolean;
  skipMissing?: boolean;
  snapshotter?: string;
}

interface ExportFlags {
  platform?: string[];
  allPlatforms?: boolean;
  skipManifestJson?: boolean;
  skipNonDistributable?: boolean;
  skipMissing?: boolean;
}

interface ConvertFlags {
  uncompress?: boolean;
  gzip?: boolean;
  zstd?: boolean;
  oci?: boolean;
  platform?: string[];
  allPlatforms?: boolean;
}

const fileChunkBytes = 1024 * 1024;

export function addArchiveCommands(images: Command, run: Run): void {
  images
    .command('import')
    .description('bring in the images of an archive: OCI layout or docker, compressed or not')
    .argument('<file>', 'or - for standard input')
    .option('--base-name <name>', 'only images of this name; it completes tags (default: import-<date>)')
    .option('--digests', 'also name every image by its digest')
    .option('--skip-digest-for-named', 'no name by digest for what has a name')
    .option('--index-name <name>', 'also name the index of the archive')
    .option('--platform <platform>', 'os[/arch[/variant]] of the images to take')
    .option('--all-platforms', 'images of all platforms')
    .option('--no-unpack', 'only import')
    .option('--snapshotter <name>', 'where to unpack')
    .option('--compress-blobs', 'compress plain layers of docker archives')
    .option('--skip-missing', 'leave out images that the archive has not all of')
    .option('--discard-unpacked-layers', 'do not keep layers once they are unpacked')
    .action((file: string, flags: ImportFlags) => run((context) => importFrom(context, file, flags)));

  images
    .command('export')
    .description('write images to an archive that OCI and docker tools read')
    .argument('<file>', 'or - for standard output')
    .argument('<image...>')
    .option('--platform <platform>', 'only manifests for this platform; may be given again', collect)
    .option('--all-platforms', 'manifests of all platforms')
    .option('--skip-manifest-json', 'leave out what docker reads')
    .option('--skip-non-distributable', 'leave out layers that must not be handed on')
    .option('--skip-missing', 'go on where an image is not complete here')
    .action((file: string, names: string[], flags: ExportFlags) =>
      run((context) => exportTo(context, file, names, flags)),
    );

  images
    .command('convert')
    .description('make another form of an image: other compression, OCI types, fewer platforms')
    .argument('<image>')
    .argument('<name>', 'of what is made')
    .option('--uncompress', 'layers as plain tar')
    .option('--gzip', 'layers compressed with gzip')
    .option('--zstd', 'layers compressed with zstd')
    .option('--oci', "OCI's media types in place of docker's")
    .option('--platform <platform>', 'only manifests for this platform; may be given again', collect)
    .option('--all-platforms', 'manifests of all platforms')
    .action((source: string, destination: string, flags: ConvertFlags) =>
      run(async ({ client, signal, print }) => {
        const { name } = await findImage(client, source, signal);
        const image = await client.convertImage(name, destination, {
          signal,
          layers: layersOf(flags),
          toOci: flags.oci ?? false,
          platforms: flags.platform ?? [],
          allPlatforms: flags.allPlatforms ?? false,
        });
        print(image.target.digest);
        return 0;
      }),
    );
}

function layersOf({ uncompress, gzip, zstd }: ConvertFlags): 'none' | 'gzip' | 'zstd' | undefined {
  const chosen = [uncompress, gzip, zstd].filter((one) => one === true);
  if (chosen.length > 1) {
    throw new TroupeError('invalid-argument', '--uncompress, --gzip and --zstd exclude each other');
  }
  if (uncompress) return 'none';
  return gzip ? 'gzip' : zstd ? 'zstd' : undefined;
}

async function importFrom(
  { client, host, signal, print }: Context,
  file: string,
  flags: ImportFlags,
): Promise<number> {
  const { unpack, ...rest } = flags;
  const label = (name: string, digest: string): string => `unpacking ${printable(name)} (${digest})...`;
  const images = await client.importImages(source(host, file), {
    ...rest,
    ...snapshotterOf(flags, host.env),
    signal,
    unpack,
    onUnpack: ({ name, target }) => void host.stdout.write(label(name, target.digest)),
    onUnpacked: () => print('done'),
  });
  if (!unpack) for (const { name } of images) print(printable(name));
  return 0;
}

function source(host: Host, file: string): AsyncIterable<Uint8Array> {
  if (file === '-') return host.stdin as AsyncIterable<Uint8Array>;
  return createReadStream(file, { highWaterMark: fileChunkBytes });
}

async function exportTo(
  { client, host, signal }: Context,
  file: string,
  given: readonly string[],
  flags: ExportFlags,
): Promise<number> {
  const names: string[] = [];
  for (const name of given) names.push((await findImage(client, name, signal)).name);
  const { platform, ...rest } = flags;
  const archive = client.exportImages(names, { ...rest, signal, platforms: platform ?? [] });
  if (file === '-') {
    if (host.stdout.isTTY === true) {
      throw new TroupeError(
        'invalid-argument',
        'an archive is nothing for a terminal: name a file, or use a pipe',
      );
    }
    await writeAll(archive, host.stdout, signal);
    return 0;
  }
  const output = createWriteStream(file, { highWaterMark: 2 * fileChunkBytes });
  try {
    await writeAll(archive, output, signal);
    output.end();
    await finished(output);
  } catch (error) {
    output.destroy();
    // Half an archive looks like a whole one to whoever finds it later.
    await rm(file, { force: true });
    throw error;
  }
  return 0;
}

async function writeAll(
  archive: AsyncIterable<Uint8Array>,
  output: NodeJS.WritableStream,
  signal: AbortSignal,
): Promise<void> {
  for await (const chunk of archive) {
    signal.throwIfAborted();
    if (output.write(chunk)) continue;
    await new Promise<void>((resolve, reject) => {
      const done = (error?: unknown): void => {
        output.off('drain', done);
        output.off('error', done);
        output.off('close', done);
        if (error === undefined) resolve();
        else reject(error);
      };
      for (const event of ['drain', 'error', 'close']) output.on(event, done);
    });
  }
}
