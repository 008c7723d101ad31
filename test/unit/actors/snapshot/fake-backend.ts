// A snapshot backend of numbers in a map, with hooks for what goes wrong.
import { fail } from '../../../../src/api/model/errors.ts';
import type {
  BackendSnapshot,
  CleanupReport,
  Snapshotter,
} from '../../../../src/api/model/ports/snapshotter.ts';

export class FakeBackend implements Snapshotter {
  readonly name = 'fake';
  readonly root = '/nowhere';
  readonly capabilities = ['rebase'];
  /** Ids, and the parents that each was made for. */
  readonly made = new Map<number, readonly number[]>();
  onCreate: (snapshot: BackendSnapshot, signal: AbortSignal | undefined) => Promise<void> = async () => {};
  onRemove: (id: number) => Promise<void> = async () => {};
  onUsage: (id: number) => Promise<void> = async () => {};

  async create(snapshot: BackendSnapshot, signal?: AbortSignal): Promise<void> {
    for (const parent of snapshot.parents) {
      if (!this.made.has(parent)) throw fail('not-found', `data of parent ${parent}`);
    }
    await this.onCreate(snapshot, signal);
    if (this.made.has(snapshot.id)) throw fail('internal', `${snapshot.id} is there already`);
    this.made.set(snapshot.id, snapshot.parents);
  }
  mounts({ id }: BackendSnapshot) {
    return [{ type: 'fake', source: String(id), target: '', options: [] }];
  }
  async usage({ id }: Pick<BackendSnapshot, 'id'>) {
    await this.onUsage(id);
    if (!this.made.has(id)) throw fail('not-found', `data of ${id}`);
    return { sizeBytes: id, inodes: 1 };
  }
  ownLabels() {
    return new Map<string, string>();
  }
  async remove(id: number) {
    await this.onRemove(id);
    this.made.delete(id);
  }
  async highestId() {
    return Math.max(0, ...this.made.keys());
  }
  async cleanup(readLive: () => Promise<(id: number) => boolean>): Promise<CleanupReport> {
    const listed = [...this.made.keys()];
    const isLive = await readLive();
    const dead = listed.filter((id) => !isLive(id));
    for (const id of dead) this.made.delete(id);
    return { removed: dead.length, failures: [] };
  }
}
