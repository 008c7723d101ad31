// The directory of snapshots that the directory-based snapshotters share: one entry per id, and its cleanup.
import { chmod, mkdir, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { codeOf, fail, messageOf } from '../../api/model/errors.ts';
import type { CleanupReport, TreeJobs } from '../../api/model/ports/snapshotter.ts';
import { errnoOf } from '../../api/model/ports/sys.ts';

export class SnapshotDirectories {
  /** `<root>/snapshots` */
  readonly path: string;
  readonly #jobs: TreeJobs;
  /** Bits that mkdir leaves out of the mode it is given; until known, any of them. */
  #umask = 0o777;

  constructor(root: string, jobs: TreeJobs) {
    this.path = path.join(root, 'snapshots');
    this.#jobs = jobs;
  }

  of(id: number): string {
    return `${this.path}/${id}`;
  }

  /** Makes `root` and `root/snapshots`, closed to others. */
  async prepare(): Promise<void> {
    await mkdir(this.path, { recursive: true, mode: 0o700 });
    await chmod(path.dirname(this.path), 0o700);
    await chmod(this.path, 0o700);
    const umask = /^Umask:\s*([0-7]+)$/m.exec(await readFile('/proc/self/status', 'utf8'))?.[1];
    if (umask !== undefined) this.#umask = Number.parseInt(umask, 8);
  }

  /** Makes a directory with exactly `mode`, whatever the umask was at {@link prepare}. */
  async makeDirectory(directory: string, mode: number): Promise<void> {
    await mkdir(directory, mode);
    if ((mode & this.#umask) !== 0) await chmod(directory, mode);
  }

  /** Runs `fill`, and removes the directory of `id` when that fails. A directory that is there already is refused. */
  async make(id: number, fill: (directory: string) => Promise<void>): Promise<void> {
    const directory = this.of(id);
    try {
      await fill(directory);
    } catch (error) {
      if (errnoOf(error) === 'EEXIST') throw fail('internal', `${directory} is there already`, error);
      let cause = error;
      try {
        await this.#jobs.remove(directory);
      } catch (second) {
        // Left for the next cleanup.
        cause = new AggregateError([error, second], `${directory} could be neither made nor removed`);
      }
      throw fail(codeOf(error), `make ${directory}: ${messageOf(error)}`, cause);
    }
  }

  async remove(id: number, signal?: AbortSignal): Promise<void> {
    await this.#jobs.remove(this.of(id), signal);
  }

  async ids(): Promise<number[]> {
    return (await readdir(this.path)).flatMap((name) => idOf(name) ?? []);
  }

  async highestId(): Promise<number> {
    return (await this.ids()).reduce((highest, id) => Math.max(highest, id), 0);
  }

  /** See the port. Entries that are no id belong to nobody: they are leftovers. */
  async cleanup(
    readLive: () => Promise<(id: number) => boolean>,
    signal?: AbortSignal,
  ): Promise<CleanupReport> {
    const names = await readdir(this.path);
    const isLive = await readLive();
    let removed = 0;
    const failures: { name: string; error: unknown }[] = [];
    for (const name of names) {
      const id = idOf(name);
      if (id !== undefined && isLive(id)) continue;
      signal?.throwIfAborted();
      try {
        await this.#jobs.remove(path.join(this.path, name), signal);
        removed++;
      } catch (error) {
        signal?.throwIfAborted();
        failures.push({ name, error });
      }
    }
    return { removed, failures };
  }
}

function idOf(name: string): number | undefined {
  return /^[1-9]\d{0,14}$/.test(name) ? Number(name) : undefined;
}
