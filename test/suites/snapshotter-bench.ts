// What snapshot tests stand on: a metadata store, a snapshot actor over a backend in a temporary directory, mounts.
import { mkdirSync } from 'node:fs';
import { snapshotActor } from '../../src/actors/snapshot/actor.ts';
import { type SnapshotProtocol, snapshotPath } from '../../src/actors/snapshot/protocol.ts';
import { codeOf } from '../../src/api/model/errors.ts';
import type { Log } from '../../src/api/model/ports/log.ts';
import type { Snapshotter } from '../../src/api/model/ports/snapshotter.ts';
import type { Mount } from '../../src/api/proto/gen/types/mount.ts';
import { mountAll, unmount } from '../../src/io/sys/mount.ts';
import { createSys } from '../../src/io/sys/sys.ts';
import type { ActorRef, Child } from '../../src/supervisor/types.ts';
import { type Scratch, scratch } from '../fixtures/scratch.ts';
import { type MetadataHarness, startMetadata } from '../unit/actors/metadata/harness.ts';

/** Makes the backend on a directory; called again for a second start on the same one. */
export type MakeBackend = (root: string) => Promise<Snapshotter>;

export const testNamespace = 'suite';

export class SnapshotBench implements AsyncDisposable {
  readonly metadata: MetadataHarness;
  readonly scratch: Scratch;
  readonly warnings: string[] = [];
  /** Runs after the store has answered a snapshot actor; may throw in its place. */
  afterMetadata: () => void = () => {};
  backend!: Snapshotter;
  ref!: ActorRef<SnapshotProtocol>;
  readonly #make: MakeBackend;
  readonly #sys = createSys();
  #cell!: Child;
  #mounts = 0;

  private constructor(metadata: MetadataHarness, directory: Scratch, make: MakeBackend) {
    this.metadata = metadata;
    this.scratch = directory;
    this.#make = make;
  }

  static async start(make: MakeBackend, directory?: string): Promise<SnapshotBench> {
    const bench = new SnapshotBench(await startMetadata(), scratch('snap', directory), make);
    await bench.#start();
    return bench;
  }

  async #start(): Promise<void> {
    this.backend = await this.#make(this.scratch.sub('root'));
    const { system, reader, metadata: real } = this.metadata;
    const path = snapshotPath(this.backend.name);
    const metadata: typeof real = {
      ...real,
      call: async (op, request, options) => {
        const reply = await real.call(op, request, options);
        this.afterMetadata();
        return reply;
      },
    };
    const args = { backend: this.backend, metadata, reader, log: recordingLog(this.warnings) };
    this.#cell = await system.spawn(path, snapshotActor, args);
    this.ref = system.ref<SnapshotProtocol>(path);
  }

  /** Stops the snapshot actor, lets `between` do what a crash would, and starts another. */
  async restart(between: () => void = () => {}): Promise<void> {
    await this.#cell.stop({ kind: 'shutdown' }, 10_000);
    between();
    await this.#start();
    await this.cleanup();
  }

  async prepare(
    key: string,
    parent = '',
    labels: Record<string, string> = {},
    lease?: string,
  ): Promise<Mount[]> {
    return (await this.#create('active', key, parent, labels, lease)).mounts;
  }

  async view(key: string, parent = '', labels: Record<string, string> = {}): Promise<Mount[]> {
    return (await this.#create('view', key, parent, labels, undefined)).mounts;
  }

  #create(
    kind: 'active' | 'view',
    key: string,
    parent: string,
    labels: Record<string, string>,
    lease: string | undefined,
  ) {
    const request = {
      namespace: testNamespace,
      lease,
      key,
      kind,
      parent,
      labels: new Map(Object.entries(labels)),
    };
    return this.ref.call('prepare', request);
  }

  async commit(name: string, key: string, labels: Record<string, string> = {}, parent = ''): Promise<void> {
    const request = { namespace: testNamespace, lease: undefined, key, name, parent };
    await this.ref.call('commit', { ...request, labels: new Map(Object.entries(labels)) });
  }

  async mounts(key: string): Promise<Mount[]> {
    return (await this.ref.call('mounts', { namespace: testNamespace, key })).mounts;
  }

  async remove(key: string): Promise<void> {
    await this.ref.call('remove', { namespace: testNamespace, key, lease: undefined });
  }

  usage(key: string) {
    return this.ref.call('usage', { namespace: testNamespace, key });
  }

  /** Waits until everything that no snapshot owns is gone from disk. */
  cleanup() {
    return this.ref.call('cleanup', {});
  }

  /** Mounts, runs `use` on the root, and unmounts whatever happens. */
  async mounted<T>(mounts: readonly Mount[], use: (root: string) => T | Promise<T>): Promise<T> {
    const target = this.scratch.sub(`m${this.#mounts++}`);
    mkdirSync(target);
    mountAll(this.#sys, mounts, target);
    try {
      return await use(target);
    } finally {
      await unmount(this.#sys, target);
    }
  }

  /** Prepares on `parent`, runs `write` on the mounted root, commits as `name`. */
  async layer(name: string, parent: string, write: (root: string) => void): Promise<void> {
    const key = `extract ${name}`;
    await this.mounted(await this.prepare(key, parent), write);
    await this.commit(name, key);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cell.stop({ kind: 'shutdown' }, 10_000);
    await this.metadata[Symbol.asyncDispose]();
    await this.scratch[Symbol.asyncDispose]();
  }
}

/** For `assert.rejects`: the error has this code, and the text where given. */
export function coded(code: string, text?: RegExp): (error: unknown) => boolean {
  return (error) => codeOf(error) === code && (text === undefined || text.test(String(error)));
}

function recordingLog(warnings: string[]): Log {
  const log: Log = {
    debug() {},
    info() {},
    warn: (message) => void warnings.push(message),
    error: (message) => void warnings.push(message),
    with: () => log,
  };
  return log;
}
