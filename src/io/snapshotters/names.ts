// The names that a snapshotter elsewhere gives to snapshots: a file per id, read at start.
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { fail } from '../../api/model/errors.ts';
import type { SnapshotNames, TreeJobs } from '../../api/model/ports/snapshotter.ts';
import { errnoOf } from '../../api/model/ports/sys.ts';
import { SnapshotDirectories } from './directories.ts';

export async function openSnapshotNames(root: string, jobs: TreeJobs): Promise<SnapshotNames> {
  const known = new Map<number, { namespace: string; names: readonly string[] }>();
  /** How many ids mean a name. */
  const uses = new Map<string, number>();
  let removeId: (id: number) => Promise<void> = async () => undefined;
  const directories = new SnapshotDirectories(root, {
    ...jobs,
    async remove(path, signal) {
      const id = Number(/\/(\d+)$/.exec(path)?.[1] ?? 0);
      if (known.has(id)) await removeId(id);
      await jobs.remove(path, signal);
    },
  });
  await directories.prepare();
  const writing = `${root}/writing`;
  await rm(writing, { recursive: true, force: true });
  await mkdir(writing, { mode: 0o700 });
  const count = (list: readonly string[], step: 1 | -1) => {
    for (const name of list) uses.set(name, (uses.get(name) ?? 0) + step);
  };
  for (const [id, text] of await readAll(directories)) {
    const [namespace = '', ...names] = text.split('\n');
    known.set(id, { namespace, names });
    count(names, 1);
  }
  return {
    root,
    get: (id) => known.get(id),
    isShared: (id, name) => (uses.get(name) ?? 0) > (known.get(id)?.names.includes(name) ? 1 : 0),
    async set(id, namespace, names) {
      if (names.some((name) => name === '' || name.includes('\n'))) {
        throw fail('invalid-argument', `snapshot names must not hold line breaks: ${JSON.stringify(names)}`);
      }
      const path = directories.of(id);
      // Not beside it: a cleanup would take it for a leftover.
      const unfinished = `${writing}/${id}`;
      const file = await open(unfinished, 'w', 0o600);
      try {
        await file.writeFile([namespace, ...names].join('\n'));
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(unfinished, path);
      count(known.get(id)?.names ?? [], -1);
      known.set(id, { namespace, names: [...names] });
      count(names, 1);
    },
    async remove(id) {
      count(known.get(id)?.names ?? [], -1);
      known.delete(id);
      await rm(directories.of(id), { force: true });
    },
    highestId: () => directories.highestId(),
    cleanup(readLive, remove, signal) {
      removeId = remove;
      return directories.cleanup(readLive, signal);
    },
  };
}

async function readAll(directories: SnapshotDirectories): Promise<[number, string][]> {
  const found: [number, string][] = [];
  for (const id of await directories.ids()) {
    try {
      found.push([id, await readFile(directories.of(id), 'utf8')]);
    } catch (error) {
      // No file of ours: a leftover for the next cleanup.
      if (errnoOf(error) !== 'EISDIR') throw error;
    }
  }
  return found;
}
