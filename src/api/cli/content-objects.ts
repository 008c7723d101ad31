// troupe content, the rest of it: single objects of a registry, a blob changed by hand, references that keep layers.
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { parseReference, TroupeError } from '../client/index.ts';
import { type Digest, parseDigest } from '../model/ids.ts';
import { documentBytesMax } from '../model/image-tree.ts';
import type { Context, Run } from './context.ts';
import { writeOut } from './format.ts';
import { type RegistryFlags, registryCredentials } from './images.ts';

const layerReference = 'containerd.io/gc.ref.content.l.';

export function addObjectCommands(content: Command, run: Run): void {
  withRegistry(
    content
      .command('fetch-object')
      .description('write what a registry has under a tag or digest to standard output')
      .argument('<reference>'),
  ).action((reference: string, flags: RegistryFlags) =>
    run((context) => fetchAll(context, [reference], flags, false)),
  );

  withRegistry(
    content
      .command('fetch-blob')
      .description('write blobs of a repository to standard output')
      .argument('<reference>', 'of any image in the repository')
      .argument('<digest...>'),
  ).action((reference: string, digests: string[], flags: RegistryFlags) =>
    run((context) => {
      const { host, repository } = parseReference(reference);
      return fetchAll(
        context,
        digests.map((digest) => `${host}/${repository}@${parseDigest(digest)}`),
        flags,
        true,
      );
    }),
  );

  withRegistry(
    content
      .command('push-object')
      .description('send one blob of the store to a registry')
      .argument('<reference>', 'a manifest goes under its tag')
      .argument('<digest>')
      .argument('<type>', 'media type: it says whether this is a manifest'),
  ).action((reference: string, digest: string, mediaType: string, flags: RegistryFlags) =>
    run(async (context) => {
      const { client, print } = context;
      const outcome = await client.objects.push(reference, { digest, mediaType }, optionsOf(context, flags));
      print(`${digest} ${outcome}`);
      return 0;
    }),
  );

  content
    .command('edit')
    .description('change a blob in an editor; prints the digest of the result')
    .argument('<digest>')
    .option('--editor <program>', 'EDITOR')
    .option('--validate <format>', 'json: refuse a result that is none')
    .action((digest: string, flags: EditFlags) =>
      run((context) => edit(context, parseDigest(digest), flags)),
    );

  const prune = content.command('prune').description('let go of what keeps content');
  prune
    .command('references')
    .description('remove the labels by which manifests keep their layers; layers that nothing else needs go')
    .option('--dry', 'only show them')
    .option('--async', 'do not wait for the collection')
    .action((flags: { dry?: boolean; async?: boolean }) => run((context) => pruneReferences(context, flags)));
}

function withRegistry(command: Command): Command {
  return command
    .option('--plain-http', 'speak http with the registry')
    .option('--insecure', 'accept any certificate of the registry')
    .option('-u, --user <user[:password]>', 'for the registry');
}

function optionsOf({ host, signal }: Context, flags: RegistryFlags) {
  return {
    ...{ signal, plainHttp: flags.plainHttp ?? false, insecureTls: flags.insecure ?? false },
    auth: registryCredentials(flags, host.env),
  };
}

async function fetchAll(
  context: Context,
  references: readonly string[],
  flags: RegistryFlags,
  blob: boolean,
): Promise<number> {
  const { client, host, signal } = context;
  for (const reference of references) {
    const options = { ...optionsOf(context, flags), blob };
    await writeOut(host.stdout, client.objects.fetch(reference, options), signal);
  }
  return 0;
}

interface EditFlags {
  editor?: string;
  validate?: string;
}

async function edit(
  { client, host, signal, print }: Context,
  digest: Digest,
  flags: EditFlags,
): Promise<number> {
  const editor = flags.editor ?? host.env['EDITOR'] ?? '';
  if (editor === '') throw new TroupeError('invalid-argument', 'name a program with --editor or EDITOR');
  if (flags.validate !== undefined && flags.validate !== 'json') {
    throw new TroupeError('invalid-argument', `--validate knows json, not "${flags.validate}"`);
  }
  const before = await client.content.readAll(digest, documentBytesMax, { signal });
  const directory = await mkdtemp(join(tmpdir(), 'troupe-edit-'));
  try {
    const file = join(directory, 'blob');
    await writeFile(file, before);
    await host.runEditor(editor, file, signal);
    const bytes = await readFile(file);
    if (flags.validate === 'json') checkJson(bytes);
    const expected = parseDigest(`sha256:${createHash('sha256').update(bytes).digest('hex')}`);
    await client.content.ingest({
      ...{ ref: `edit-${digest}`, expected, sizeBytes: BigInt(bytes.length), signal },
      async *source(offset) {
        yield bytes.subarray(offset);
      },
    });
    print(expected);
    return 0;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function checkJson(bytes: Uint8Array): void {
  try {
    JSON.parse(Buffer.from(bytes).toString());
  } catch (error) {
    throw new TroupeError('invalid-argument', `the result is no JSON: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

async function pruneReferences(
  { client, signal, print }: Context,
  flags: { dry?: boolean; async?: boolean },
): Promise<number> {
  const found: { digest: string; labels: string[] }[] = [];
  for await (const { digest, labels } of client.content.list([], { signal })) {
    const keys = [...labels.keys()].filter((key) => key.startsWith(layerReference));
    if (keys.length > 0) found.push({ digest, labels: keys });
  }
  for (const { digest, labels } of found) {
    for (const key of labels) print(`${digest} ${key}`);
    if (flags.dry === true) continue;
    await client.content.setLabels(digest, new Map(labels.map((key) => [key, ''])), { signal });
  }
  if (flags.dry === true) return 0;
  // The end of a lease is what has the daemon collect, and what can be waited for.
  const { id } = await client.leases.acquire({ signal });
  await client.leases.delete(id, { sync: flags.async !== true, signal });
  return 0;
}
