// The blob store on a local file system: blobs/<algorithm>/<hex>, ingest/<id>, and a trash that empties itself.
import * as fs from 'node:fs';
import * as fsp from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fail, wrap } from '../../api/model/errors.ts';
import {
  type Digest,
  digestAlgorithm,
  digestHex,
  digestHexLength,
  parseDigest,
} from '../../api/model/ids.ts';
import type { BlobStore, CommittedBlob, StoredIngest } from '../../api/model/ports/blobs.ts';
import {
  close,
  DirectorySync,
  digestOf,
  fdatasync,
  hashFile,
  open,
  type WriteAt,
  writeAllSync,
  writeAt,
} from './files.ts';
import { BlobHandles } from './handles.ts';
import { checkDigest, checkSize, FileIngest, type IngestHome } from './ingest.ts';

export interface BlobStoreOptions {
  /** Directory of the store, `<root>/io.containerd.content.v1.content`; made when missing, closed to others. */
  readonly directory: string;
  /** How bytes reach the disk; tests hand in a faulty one. */
  readonly writeAt?: WriteAt;
}

export interface FileBlobStore extends BlobStore {
  /** Closes the files and directories that are held open. */
  close(): void;
}

const algorithms = Object.keys(digestHexLength) as (keyof typeof digestHexLength)[];
const ingestName = /^\d{1,15}$/;
/** Files of blobs that stay open for the next reader. */
const openBlobsMax = 64;
/** Changes with every start of the machine (random(4)). */
const bootIdFile = '/proc/sys/kernel/random/boot_id';
/** Few, since everybody shares libuv's threads and nobody waits for this. */
const settleLanes = 2;
const listPageLength = 512;

const removalsInARow = 32;
const removalPauseMs = 1;

export function createBlobStore(options: BlobStoreOptions): FileBlobStore {
  const blobs = join(options.directory, 'blobs');
  const ingests = join(options.directory, 'ingest');
  const trash = join(options.directory, 'trash');
  const bootFile = join(options.directory, 'boot-id');
  const syncs = new Map<string, DirectorySync>();
  for (const directory of [...algorithms.map((name) => join(blobs, name)), ingests, trash]) {
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
  }
  for (const name of algorithms) syncs.set(name, new DirectorySync(join(blobs, name)));
  let temporaries = 0;
  const handles = new BlobHandles((digest) => path(digest), openBlobsMax);

  const path = (digest: Digest) => join(blobs, digestAlgorithm(digest), digestHex(digest));
  const ingestPath = (id: number) => join(ingests, String(id));
  // Not a number, so the sweep at start knows it for what it is.
  const temporaryPath = () => join(ingests, `new-${process.pid}-${++temporaries}`);

  async function publish(file: string, digest: Digest): Promise<void> {
    fs.renameSync(file, path(digest));
    await syncs.get(digestAlgorithm(digest))?.sync();
  }

  const home: IngestHome = { writeAt: options.writeAt ?? writeAt, blobPath: path, publish };

  function stored(id: number): StoredIngest | undefined {
    const stat = fs.statSync(ingestPath(id), { bigint: true, throwIfNoEntry: false });
    return stat === undefined ? undefined : { id, sizeBytes: Number(stat.size), updatedAtNs: stat.mtimeNs };
  }

  return {
    path,
    sizeOf: (digest) => fs.statSync(path(digest), { throwIfNoEntry: false })?.size,
    open: (digest) => handles.open(digest),

    async *list() {
      for (const algorithm of algorithms) {
        let page: Digest[] = [];
        const directory = await fsp.opendir(join(blobs, algorithm), { bufferSize: listPageLength });
        for await (const entry of directory) {
          const hex = entry.name;
          if (hex.length !== digestHexLength[algorithm]) continue;
          page.push(parseDigest(`${algorithm}:${hex}`));
          if (page.length < listPageLength) continue;
          yield page;
          page = [];
        }
        if (page.length > 0) yield page;
      }
    },

    discard(digest) {
      handles.drop(digest);
      try {
        fs.renameSync(path(digest), join(trash, digest.replace(':', '-')));
        return true;
      } catch (error) {
        if (isMissing(error)) return false;
        throw wrap(`discard of blob ${digest}`, error);
      }
    },

    async emptyTrash() {
      const names = await fsp.readdir(trash);
      for (const [index, name] of names.entries()) {
        await remove(join(trash, name));
        // A file system that is busy with removals holds up the writes of others.
        if (index % removalsInARow === removalsInARow - 1) await sleep(removalPauseMs);
      }
      return names.length;
    },

    put: (digest, data) => write(digest, data, true),
    place,

    async settle(digests) {
      const queue = [...digests];
      const lane = async () => {
        for (let digest = queue.pop(); digest !== undefined; digest = queue.pop())
          await syncFile(path(digest));
      };
      await Promise.all(Array.from({ length: settleLanes }, lane));
      for (const sync of syncs.values()) await sync.sync();
    },

    async restore(lost) {
      for (const { digest, data } of lost) {
        const found = await fsp.readFile(path(digest)).catch((error) => {
          if (isMissing(error)) return undefined;
          throw wrap(`blob ${digest}`, error);
        });
        if (found === undefined || !found.equals(data)) await write(digest, data, false);
      }
    },

    rebooted() {
      const bootId = readText(bootIdFile);
      return bootId === '' || bootId !== readText(bootFile);
    },
    noteBoot: () => fs.writeFileSync(bootFile, readText(bootIdFile)),

    async adopt(source, checks) {
      const given = await fsp.lstat(source);
      if (!given.isFile()) throw fail('invalid-argument', `${source} is not a regular file`);
      const file = temporaryPath();
      await moveFile(source, file);
      const fd = await open(file, fs.constants.O_RDWR | fs.constants.O_NOFOLLOW);
      try {
        return await adoptOpened(fd, file, checks);
      } catch (error) {
        fs.rmSync(file, { force: true });
        throw error;
      } finally {
        await close(fd);
      }
    },

    ingestPath,
    create: async (id) => FileIngest.create(home, id, ingestPath(id)),
    resume: (id, signal) => FileIngest.resume(home, id, ingestPath(id), signal),
    stored,

    async listIngests() {
      const found: StoredIngest[] = [];
      for (const name of await fsp.readdir(ingests)) {
        const ingest = ingestName.test(name) ? stored(Number(name)) : undefined;
        if (ingest !== undefined) found.push(ingest);
      }
      return found;
    },

    async sweepIngests(keep) {
      let removed = 0;
      for (const name of await fsp.readdir(ingests)) {
        if (ingestName.test(name) && keep.has(Number(name))) continue;
        await fsp.rm(join(ingests, name), { force: true, recursive: true });
        removed++;
      }
      return removed;
    },

    removeIngest: (id) => fsp.rm(ingestPath(id), { force: true }),

    close() {
      handles.close();
      for (const sync of syncs.values()) sync.close();
      syncs.clear();
    },
  };

  async function place(digest: Digest, data: Uint8Array): Promise<void> {
    // A file that is there may be durable already; the new one would not be.
    const found = fs.statSync(path(digest), { throwIfNoEntry: false });
    if (found?.size !== data.byteLength) await write(digest, data, false);
  }

  async function write(digest: Digest, data: Uint8Array, durable: boolean): Promise<void> {
    const file = temporaryPath();
    try {
      const fd = fs.openSync(file, 'wx', 0o444);
      try {
        writeAllSync(fd, data);
        if (durable) await fdatasync(fd);
      } finally {
        fs.closeSync(fd);
      }
      if (durable) await publish(file, digest);
      else fs.renameSync(file, path(digest));
    } catch (error) {
      fs.rmSync(file, { force: true });
      throw wrap(`blob ${digest}`, error);
    }
  }

  async function adoptOpened(
    fd: number,
    file: string,
    checks: Parameters<BlobStore['adopt']>[1],
  ): Promise<CommittedBlob> {
    const sizeBytes = fs.fstatSync(fd).size;
    checkSize(sizeBytes, checks);
    let digest = checks.digest;
    if (digest === undefined) {
      const algorithm = checks.expected === undefined ? 'sha256' : digestAlgorithm(checks.expected);
      digest = digestOf((await hashFile(fd, algorithm)).hash, algorithm);
    }
    checkDigest(digest, checks);
    fs.fchmodSync(fd, 0o444);
    await fdatasync(fd);
    await publish(file, digest);
    return { digest, sizeBytes };
  }
}

/** As `rm` with `force`, which looks first: half the turns of libuv's threads. */
async function remove(path: string): Promise<void> {
  try {
    await fsp.unlink(path);
  } catch (error) {
    if (!isMissing(error)) throw wrap(`removal of ${path}`, error);
  }
}

async function syncFile(path: string): Promise<void> {
  let fd: number;
  try {
    fd = await open(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW);
  } catch (error) {
    if (isMissing(error)) return;
    throw wrap(`sync of ${path}`, error);
  }
  try {
    await fdatasync(fd);
  } finally {
    await close(fd);
  }
}

/** Empty when the file cannot be read. */
function readText(path: string): string {
  try {
    return fs.readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

async function moveFile(source: string, target: string): Promise<void> {
  try {
    await fsp.rename(source, target);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EXDEV') throw error;
    try {
      await fsp.copyFile(source, target, fs.constants.COPYFILE_FICLONE);
    } catch (failure) {
      await fsp.rm(target, { force: true });
      throw wrap(`copy of ${source}`, failure);
    }
    await fsp.rm(source, { force: true });
  }
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ENOENT';
}
