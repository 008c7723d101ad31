// What metadata costs beside containerd: one record at a time and many, lists, small blobs, leases, collections, events.
import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  ContainersDefinition,
  CreateContainerRequest,
  GetContainerRequest,
  ListContainersRequest,
} from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import {
  ContentDefinition,
  WriteAction,
  WriteContentRequest,
} from '../../src/api/proto/gen/services/content/v1/content.ts';
import {
  CreateRequest,
  DeleteRequest,
  LeasesDefinition,
} from '../../src/api/proto/gen/services/leases/v1/leases.ts';
import {
  NamespacesDefinition,
  UpdateNamespaceRequest,
} from '../../src/api/proto/gen/services/namespaces/v1/namespace.ts';
import { type Daemon, startDaemon } from '../../test/fixtures/daemon.ts';
import { deliver } from '../events.ts';
import { type Bench, daemonOf, type Goal, kinds, type Medium, parentOf, type Question } from '../harness.ts';
import { generate, type Load, type LoadResult } from '../load.ts';
import { container } from '../requests.ts';

const listedCount = 4000;
const blobCount = 20_000;
const blobBytes = 250;
const namespace = 'rates';
const listedNamespace = 'listed';
const placeholder = 'PLACEHOLDER-OF-AN-IDENTIFIER';
/** No load takes as long; it only keeps one that counts calls from going on for ever. */
const limitMs = 600_000;

const pathOf = (service: { fullName: string }, method: string): string => `/${service.fullName}/${method}`;

type Part = Omit<Load, 'socketPath' | 'concurrency' | 'durationMs'>;

const createContainer: Part = {
  path: pathOf(ContainersDefinition, 'Create'),
  namespace,
  bodies: [CreateContainerRequest.encode({ container: container(placeholder) }).finish()],
  placeholder,
};

/** A record of a few hundred bytes, of which a store can have a million. */
const createSmall: Part = {
  ...createContainer,
  bodies: [
    CreateContainerRequest.encode({
      container: {
        ...container(placeholder),
        spec: { typeUrl: 'example.com/spec', value: Buffer.alloc(64) },
      },
    }).finish(),
  ],
};

const getContainer: Part = {
  path: pathOf(ContainersDefinition, 'Get'),
  namespace: listedNamespace,
  bodies: Array.from({ length: 1000 }, (_, i) => GetContainerRequest.encode({ id: `listed-${i}` }).finish()),
};

const listContainers = (filters: string[]): Part => ({
  path: pathOf(ContainersDefinition, 'List'),
  namespace: listedNamespace,
  bodies: [ListContainersRequest.encode({ filters }).finish()],
});

const leaseCycle: Part = {
  path: pathOf(LeasesDefinition, 'Create'),
  namespace,
  bodies: [CreateRequest.encode({ id: placeholder, labels: new Map() }).finish()],
  placeholder,
  // biome-ignore lint/suspicious/noThenProperty: what follows; nobody awaits a load
  then: [
    {
      path: pathOf(LeasesDefinition, 'Delete'),
      body: DeleteRequest.encode({ id: placeholder, sync: false }).finish(),
    },
  ],
};

/** New blobs, each with its digest; every run has others. */
function blobs(count: number): Uint8Array[] {
  return Array.from({ length: count }, () => {
    const data = randomBytes(blobBytes);
    const digest = `sha256:${createHash('sha256').update(data).digest('hex')}`;
    return WriteContentRequest.encode({
      action: WriteAction.COMMIT,
      ref: `bench-${digest}`,
      total: BigInt(blobBytes),
      expected: digest,
      offset: 0n,
      data,
      labels: new Map(),
    }).finish();
  });
}

async function run(daemon: Daemon, load: Omit<Load, 'socketPath'>, stop?: AbortSignal): Promise<LoadResult> {
  const result = await generate({ ...load, socketPath: daemon.address }, stop);
  if (result.errors > 0) {
    throw new Error(`${daemon.kind}: ${load.path}: ${result.errors} errors: ${result.firstError}`);
  }
  return result;
}

async function fill(daemon: Daemon): Promise<void> {
  const bodies = Array.from({ length: listedCount }, (_, i) =>
    CreateContainerRequest.encode({ container: container(`listed-${i}`) }).finish(),
  );
  const { path } = createContainer;
  const load = { path, namespace: listedNamespace, bodies, callsMax: listedCount };
  await run(daemon, { ...load, concurrency: 16, durationMs: limitMs });
}

async function rows(bench: Bench, daemons: readonly Daemon[], medium: Medium): Promise<void> {
  const roundCount = bench.quick ? 3 : 5;
  // Lists take so long that a short round would hold a handful.
  const listMs = bench.quick ? 1500 : 4000;
  const row = async (
    figure: string,
    part: Part,
    concurrency: number,
    ratioMin: number,
    durationMs: number = bench.quick ? 400 : 1500,
  ): Promise<void> => {
    const goals: Record<string, Goal> = { [figure]: { ratioMin } };
    await bench.alternate({ medium, unit: '1/s', better: 'higher', roundCount, goals }, async (kind) => {
      const { perSecond } = await run(daemonOf(daemons, kind), { ...part, concurrency, durationMs });
      // The other side's write-back and garbage should not fall into this side's time.
      await sleep(50);
      return { [figure]: perSecond };
    });
  };
  if (medium === 'tmpfs') {
    await row('container create, concurrency 16', createContainer, 16, 2);
    return;
  }
  await row('container create, concurrency 1', createContainer, 1, 1.5);
  await row('container create, concurrency 16', createContainer, 16, 5);
  await row('container create, concurrency 64', createContainer, 64, 6);
  await row('container get, concurrency 1', getContainer, 1, 1);
  await row('container get, concurrency 16', getContainer, 16, 1);
  await row(`list of ${listedCount} containers`, listContainers([]), 1, 5, listMs);
  await row(`the same with a label filter`, listContainers(['labels."app"==bench']), 1, 3, listMs);
  await row('lease create and delete, concurrency 16', leaseCycle, 16, 5);
  await events(bench, daemons, roundCount);
  await blobsComeAndGo(bench, daemons);
}

async function events(bench: Bench, daemons: readonly Daemon[], roundCount: number): Promise<void> {
  const publishCount = bench.quick ? 1000 : 5000;
  const figure = `events, 8 subscribers, ${publishCount} publishes`;
  const goals: Record<string, Goal> = { [figure]: { ratioMin: 1 } };
  await bench.alternate(
    { medium: 'disk', unit: '1/s', better: 'higher', roundCount, goals },
    async (kind) => {
      const socketPath = daemonOf(daemons, kind).address;
      const { perSecond } = await deliver({ socketPath, namespace, subscriberCount: 8, publishCount });
      return { [figure]: perSecond };
    },
  );
}

/**
 * Blobs that only a lease keeps, and a small write over and over while the end of the lease has them collected. Writing
 * so many takes containerd minutes: each round's serve both figures.
 */
async function blobsComeAndGo(bench: Bench, daemons: readonly Daemon[]): Promise<void> {
  const count = bench.quick ? blobCount / 10 : blobCount;
  const written = `content write, ${count} blobs of ${blobBytes} bytes, concurrency 8`;
  const collected = `collection of ${count} blobs: worst latency of a small write`;
  const at = {
    medium: 'disk',
    unit: '1/s',
    better: 'higher',
    roundCount: 3,
    goals: { [written]: { ratioMin: 2 }, [collected]: { valueMax: 10 } },
    others: { [collected]: { unit: 'ms', better: 'lower' } },
  } as const;
  await bench.alternate(at, async (kind, round) => {
    const daemon = daemonOf(daemons, kind);
    const lease = `bench-${round}`;
    const { perSecond } = await writeBlobs(daemon, count, lease);
    await sleep(1000);
    return { [written]: perSecond, [collected]: await worstWhileCollecting(daemon, lease) };
  });
}

async function writeBlobs(daemon: Daemon, count: number, lease: string): Promise<LoadResult> {
  using client = daemon.grpc();
  await client.call(LeasesDefinition, 'create', { id: lease }, { namespace });
  return await run(daemon, {
    path: pathOf(ContentDefinition, 'Write'),
    namespace,
    lease,
    bodies: blobs(count),
    callsMax: count,
    concurrency: 8,
    durationMs: limitMs,
  });
}

/** Calls before the collection begins: the caller itself has to become fast first. */
const untimedCalls = 100;

async function worstWhileCollecting(daemon: Daemon, lease: string): Promise<number> {
  using client = daemon.grpc();
  const update = UpdateNamespaceRequest.encode({
    namespace: { name: listedNamespace, labels: new Map([['bench', placeholder]]) },
    updateMask: ['labels.bench'],
  }).finish();
  const stop = new AbortController();
  const load = {
    path: pathOf(NamespacesDefinition, 'Update'),
    namespace,
    bodies: [update],
    placeholder,
    untimedCalls,
    concurrency: 1,
    durationMs: limitMs,
  };
  const writing = run(daemon, load, stop.signal);
  await sleep(500);
  await client.call(
    LeasesDefinition,
    'delete',
    { id: lease, sync: true },
    { namespace, deadlineMs: limitMs },
  );
  stop.abort();
  return (await writing).worstMs;
}

/** Troupe alone: what a call costs with few records in the store, and with very many. */
async function manyRecords(bench: Bench): Promise<void> {
  const few = 1000;
  const many = bench.quick ? 50_000 : 1_000_000;
  await using daemon = await startDaemon('troupe', { parent: parentOf('disk') });
  const listed = (i: number) => ({ ...container(`listed-${i}`), spec: undefined });
  const bodies = Array.from({ length: few }, (_, i) =>
    CreateContainerRequest.encode({ container: listed(i) }).finish(),
  );
  const fewLoad = { path: createSmall.path, namespace: listedNamespace, bodies, callsMax: few };
  await run(daemon, { ...fewLoad, concurrency: 16, durationMs: limitMs });
  const costs = async (part: Part): Promise<number[]> => {
    const rounds: number[] = [];
    for (let i = 0; i < 3; i++) {
      const durationMs = bench.quick ? 300 : 1000;
      rounds.push(1e6 / (await run(daemon, { ...part, concurrency: 16, durationMs })).perSecond);
    }
    return rounds;
  };
  const getFirst = await costs(getContainer);
  const createFirst = await costs(createSmall);
  await run(daemon, { ...createSmall, callsMax: many, concurrency: 64, durationMs: limitMs });
  // What was journaled last should be on its way to the tables, as it is after any such load.
  await sleep(bench.quick ? 500 : 5000);
  const name = (what: string): string => `${what} with ${many} records; beside it, with ${few}`;
  const at = { medium: 'disk', unit: 'us', goal: { ratioMin: 0.67 } } as const;
  bench.compareOwn(
    { ...at, figure: name('create') },
    { first: createFirst, second: await costs(createSmall) },
  );
  bench.compareOwn({ ...at, figure: name('get') }, { first: getFirst, second: await costs(getContainer) });
}

export const question: Question = {
  name: 'metadata',
  asks: 'Calls a second over one connection, from a worker thread that speaks just enough HTTP/2 to count the answers; a container record has about 2.3 KB. Events are published 64 at a time. A collection is the synchronous deletion of the lease that alone kept the blobs. In the last two rows Troupe is compared with itself.',
  async run(bench) {
    for (const medium of ['disk', 'tmpfs'] as const) {
      await using stack = new AsyncDisposableStack();
      const daemons: Daemon[] = [];
      for (const kind of kinds) {
        daemons.push(stack.use(await startDaemon(kind, { parent: parentOf(medium) })));
      }
      if (medium === 'disk') await Promise.all(daemons.map(fill));
      await rows(bench, daemons, medium);
    }
    await manyRecords(bench);
  },
};
