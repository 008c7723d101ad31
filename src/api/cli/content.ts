// troupe content: blobs by digest, and what is being written.
import { createHash } from 'node:crypto';
import type { Command } from 'commander';
import { codeOf, normalizeReference, TroupeError } from '../client/index.ts';
import { parseDigest } from '../model/ids.ts';
import { addObjectCommands } from './content-objects.ts';
import type { Context, Run } from './context.ts';
import {
  formatBytes,
  formatDecimalBytes,
  formatDuration,
  formatLabels,
  formatTabs,
  printable,
  writeOut,
} from './format.ts';
import { pullImage, type RegistryFlags } from './images.ts';
import { parseLabels } from './labels.ts';

export function addContentCommands(program: Command, run: Run): void {
  const content = program.command('content').description('manage blobs');

  content
    .command('ls')
    .alias('list')
    .description('list blobs')
    .argument('[filter...]', 'such as size>1000; several are alternatives')
    .option('-q, --quiet', 'only digests')
    .action((filters: string[], flags: { quiet?: boolean }) =>
      run((context) => list(context, filters, flags.quiet ?? false)),
    );

  content
    .command('active')
    .description('list what is being written')
    .action(() =>
      run(async ({ client, signal, print }) => {
        const rows = (await client.content.statuses([], { signal })).map(({ ref, offset, startedAt }) => [
          ...[ref, formatDecimalBytes(Number(offset)), formatDuration(startedAt, Date.now())],
        ]);
        for (const line of formatTabs(['REF', 'SIZE', 'AGE'], rows)) print(line);
        return 0;
      }),
    );

  content
    .command('get')
    .description('write a blob to standard output')
    .argument('<digest>')
    .action((digest: string) =>
      run(async ({ client, host, signal }) => {
        await writeOut(host.stdout, client.content.read(parseDigest(digest), 0n, { signal }), signal);
        return 0;
      }),
    );

  content
    .command('ingest')
    .description('bring a blob in from standard input')
    .argument('<ref>', 'name of the ingest')
    .option('--expected-digest <digest>', 'fail unless the bytes have it')
    .option('--expected-size <bytes>', 'fail unless there are so many')
    .action((ref: string, flags: { expectedDigest?: string; expectedSize?: string }) =>
      run((context) => ingest(context, ref, flags)),
    );

  content
    .command('label')
    .description('set labels of a blob; an empty value removes one')
    .argument('<digest>')
    .argument('<label...>', 'key=value')
    .action((digest: string, labels: string[]) =>
      run(async ({ client, signal, print }) => {
        const info = await client.content.setLabels(parseDigest(digest), parseLabels(labels), { signal });
        print(printable(formatLabels(info.labels)));
        return 0;
      }),
    );

  content
    .command('rm')
    .aliases(['delete', 'del', 'remove'])
    .description('remove blobs, whatever needs them')
    .argument('<digest...>')
    .action((digests: string[]) =>
      run(async ({ client, signal, print, warn }) => {
        let status = 0;
        for (const digest of digests) {
          try {
            await client.content.delete(parseDigest(digest), { signal });
            print(digest);
          } catch (error) {
            if (signal.aborted) throw error;
            warn(`${printable(digest)}: ${codeOf(error) === 'not-found' ? 'not found' : String(error)}`);
            status = 1;
          }
        }
        return status;
      }),
    );

  content
    .command('fetch')
    .description('fetch an image without unpacking it')
    .argument('<image>')
    .option('--platform <platform>', 'os[/arch[/variant]] of the image')
    .option('--plain-http', 'speak http with the registry')
    .option('--insecure', 'accept any certificate of the registry')
    .option('-u, --user <user[:password]>', 'for the registry')
    .option('-q, --quiet', 'no progress')
    .action((name: string, flags: RegistryFlags) =>
      run(async (context) => {
        const image = await pullImage(context, normalizeReference(name), flags, { unpack: false });
        context.print(image.target.digest);
        return 0;
      }),
    );

  addObjectCommands(content, run);
}

async function list(
  { client, signal, print }: Context,
  filters: readonly string[],
  quiet: boolean,
): Promise<number> {
  const rows: string[][] = [];
  for await (const { digest, size, createdAt, labels } of client.content.list(filters, { signal })) {
    if (quiet) print(digest);
    else {
      const age = formatDuration(createdAt, Date.now());
      rows.push([digest, formatDecimalBytes(Number(size)), age, formatLabels(labels, '-')]);
    }
  }
  if (quiet) return 0;
  for (const line of formatTabs(['DIGEST', 'SIZE', 'AGE', 'LABELS'], rows)) print(line);
  return 0;
}

const ingestBytesMax = 64 * 1024 * 1024;

async function ingest(
  { client, host, signal, print }: Context,
  ref: string,
  flags: { expectedDigest?: string; expectedSize?: string },
): Promise<number> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  const hash = createHash('sha256');
  for await (const chunk of host.stdin as AsyncIterable<Uint8Array>) {
    size += chunk.byteLength;
    if (size > ingestBytesMax) {
      throw new TroupeError(
        'resource-exhausted',
        `more than ${formatBytes(ingestBytesMax)}: import an archive`,
      );
    }
    hash.update(chunk);
    chunks.push(chunk);
  }
  const digest = parseDigest(`sha256:${hash.digest('hex')}`);
  const expected = flags.expectedDigest === undefined ? digest : parseDigest(flags.expectedDigest);
  if (flags.expectedSize !== undefined && Number(flags.expectedSize) !== size) {
    throw new TroupeError('failed-precondition', `${size} bytes came, expected were ${flags.expectedSize}`);
  }
  if (expected !== digest) {
    throw new TroupeError('failed-precondition', `the bytes have digest ${digest}, expected was ${expected}`);
  }
  await client.content.ingest({
    ...{ ref, expected, sizeBytes: BigInt(size), signal },
    async *source(offset) {
      yield Buffer.concat(chunks).subarray(offset);
    },
  });
  print(digest);
  return 0;
}
