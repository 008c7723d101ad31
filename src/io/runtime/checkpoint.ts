// Checkpoint images on their way between a directory, where criu reads and writes them, and the content store.
import { createReadStream, createWriteStream } from 'node:fs';
import { lstat, mkdir, mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { extract, type Header, type Pack, pack } from 'tar-stream';
import { fail } from '../../api/model/errors.ts';
import { parseDigest } from '../../api/model/ids.ts';
import type { ContentPort } from '../../api/model/ports/blobs.ts';
import {
  type CheckpointDirectory,
  type CheckpointStore,
  checkpointMediaType,
} from '../../api/model/ports/checkpoint.ts';
import { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import { Descriptor } from '../../api/proto/gen/types/descriptor.ts';

export interface CheckpointConfig {
  readonly content: ContentPort;
  /** Made if missing, closed to others. Give it the content store's file system, so that tars are moved, not copied. */
  readonly directory: string;
}

const entriesMax = 100_000;
const depthMax = 16;

export function createCheckpointStore({ content, directory }: CheckpointConfig): CheckpointStore {
  async function temporary(): Promise<CheckpointDirectory> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const path = await mkdtemp(join(directory, 'checkpoint-'));
    return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
  }

  return {
    directory: temporary,

    async unpack(namespace, descriptor) {
      const blob = content.blobPath(namespace, parseDigest(descriptor.digest));
      const target = await temporary();
      try {
        await unpackImages(blob, target.path);
        return target;
      } catch (error) {
        await target[Symbol.asyncDispose]();
        throw error;
      }
    },

    async store(namespace, { path, spec, lease }) {
      await using scratch = await temporary();
      const add = async (file: string, mediaType: string) => {
        const ref = `checkpoint-${file}`;
        const stored = await content.ingestFile(namespace, { ref, path: join(scratch.path, file), lease });
        return Descriptor.create({ mediaType, digest: stored.digest, size: BigInt(stored.sizeBytes) });
      };
      await packImages(path, join(scratch.path, 'images.tar'));
      const images = await add('images.tar', checkpointMediaType.images);
      await writeFile(join(scratch.path, 'config'), Any.encode(spec ?? Any.create({})).finish());
      return [images, await add('config', checkpointMediaType.config)];
    },
  };
}

/** Regular files and directories only: criu writes nothing else. */
export async function packImages(directory: string, tarPath: string): Promise<void> {
  const tar = pack();
  const written = pipeline(tar, createWriteStream(tarPath, { flags: 'wx', mode: 0o600 }));
  const add = async (relative: string, depth: number): Promise<void> => {
    if (depth > depthMax) throw fail('unknown', `checkpoint images are nested deeper than ${depthMax}`);
    for (const name of (await readdir(join(directory, relative))).sort()) {
      const path = join(relative, name);
      const found = await lstat(join(directory, path));
      const header = { name: path, mtime: found.mtime, mode: found.mode & 0o777 };
      if (found.isDirectory()) {
        tar.entry({ ...header, type: 'directory' });
        await add(path, depth + 1);
      } else if (found.isFile()) {
        await addFile(tar, { ...header, size: found.size }, join(directory, path));
      }
    }
  };
  try {
    await add('', 0);
    tar.finalize();
  } catch (error) {
    tar.destroy(error as Error);
    await written.catch(() => {});
    throw error;
  }
  await written;
}

function addFile(tar: Pack, header: Partial<Header> & Pick<Header, 'name'>, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const source = createReadStream(path);
    const entry = tar.entry(header, (error) => (error ? reject(error) : resolve()));
    source.on('error', reject);
    source.on('data', (chunk) => {
      if (entry.write(chunk)) return;
      source.pause();
      entry.once('drain', () => source.resume());
    });
    source.on('end', () => entry.end(null));
  });
}

/** Throws `invalid-argument` for entries that lead out of the directory or are neither file nor directory. */
export async function unpackImages(tarPath: string, directory: string): Promise<void> {
  const untar = extract();
  const read = pipeline(createReadStream(tarPath), untar);
  read.catch(() => {});
  let entries = 0;
  for await (const entry of untar) {
    const { name, type } = entry.header;
    if (++entries > entriesMax)
      throw fail('invalid-argument', `checkpoint has more than ${entriesMax} entries`);
    const parts = name.split('/').filter((part) => part !== '' && part !== '.');
    if (parts.includes('..') || name.startsWith('/') || parts.length > depthMax) {
      throw fail('invalid-argument', `checkpoint entry "${name}" leads out of its directory`);
    }
    const path = join(directory, ...parts);
    if (type === 'directory') {
      await mkdir(path, { recursive: true, mode: 0o700 });
      entry.resume();
    } else if (type === 'file') {
      await mkdir(dirname(path), { recursive: true, mode: 0o700 });
      await using file = await open(path, 'wx', 0o600);
      for await (const chunk of entry) await file.writeFile(chunk as Uint8Array);
    } else throw fail('invalid-argument', `checkpoint entry "${name}" is a ${type}`);
  }
  await read;
}
