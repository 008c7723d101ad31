// A shim runtime in memory, with shims that are ttrpc servers in this process and do what a test tells them.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type ShimTimeouts, shimTimeoutsDefault } from '../../../../src/actors/shim/live.ts';
import { createRevivals } from '../../../../src/actors/shim/revive.ts';
import { TaskDirectory } from '../../../../src/actors/task/directory.ts';
import type { TaskCreate, TaskProtocol } from '../../../../src/actors/task/protocol.ts';
import { taskPath } from '../../../../src/actors/task/protocol.ts';
import type { TaskTimeouts } from '../../../../src/actors/task/rpc.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import type { Bundle, ShimAddress, ShimKey, ShimRuntime } from '../../../../src/api/model/ports/shim.ts';
import type { TaskExit } from '../../../../src/api/proto/gen/events/task.ts';
import * as v2 from '../../../../src/api/proto/gen/runtime/task/v2/shim.ts';
import * as v3 from '../../../../src/api/proto/gen/runtime/task/v3/shim.ts';
import { Envelope } from '../../../../src/api/proto/gen/types/event.ts';
import { TtrpcServer } from '../../../../src/api/ttrpc/server.ts';
import { type Handlers, ttrpcService } from '../../../../src/api/ttrpc/service.ts';
import { ttrpcShimDialer } from '../../../../src/api/ttrpc/shim.ts';
import { Supervisor } from '../../../../src/supervisor/supervisor.ts';
import { ActorSystem } from '../../../../src/supervisor/system.ts';
import type { ActorRef } from '../../../../src/supervisor/types.ts';
import { type LogLine, memoryLog } from './harness.ts';

export type ShimHandlers = Handlers<v3.TaskDefinition>;

/** Never answers. */
export const silence = (): Promise<never> => new Promise(() => {});

/** A shim that works: one process, running once started. */
export function goodShim(): ShimHandlers {
  let started = false;
  const exit = Promise.withResolvers<v3.WaitResponse>();
  return {
    create: () => ({ pid: 100 }),
    connect: () => ({ shimPid: 1, taskPid: 100, version: 'fake' }),
    start: () => {
      started = true;
      return { pid: 100 };
    },
    state: ({ id, execId }) => {
      if (execId !== '') throw fail('not-found', `process ${execId}`);
      return v3.StateResponse.create({ id, pid: 100, status: started ? 2 : 1 });
    },
    pids: () => ({ processes: [{ pid: 100, info: undefined }] }),
    kill: () => {
      exit.resolve(v3.WaitResponse.create({ exitStatus: 137 }));
      return {};
    },
    wait: () => exit.promise,
    delete: () => v3.DeleteResponse.create({ pid: 100, exitStatus: 137 }),
    shutdown: () => ({}),
  };
}

export interface FakeOptions {
  /** Changes what the shim of a good kind does. */
  shim?: ShimHandlers;
  /** 2: only the older service is there, though the shim claims 3. */
  serves?: 2 | 3;
  onStart?: () => Promise<void>;
  address?: (address: ShimAddress) => ShimAddress;
  /** What `delete` answers, or its failure. */
  deleted?: () => Promise<v3.DeleteResponse>;
  shimTimeouts?: Partial<ShimTimeouts>;
  taskTimeouts?: Partial<TaskTimeouts>;
  intensity?: { restartsMax: number; withinMs: number };
  recoverWaitMs?: number;
  /** Starting a shim again brings up one that has the tasks of the one that died. */
  revives?: boolean;
  exitReportDelayMs?: number;
  /** Puts the socket of a shim back whose file is gone. */
  restoreSocket?: (id: string) => Promise<boolean>;
  /** The log of events has the creation of every task. */
  toldCreate?: boolean;
  /** The exit that the log of events has of the task (of its process `pid`) when its shim dies. */
  toldExit?: (id: string, pid: number) => Promise<TaskExit | undefined>;
}

export interface Fake {
  options: FakeOptions;
  system: ActorSystem;
  tasks: TaskDirectory;
  runtime: ShimRuntime;
  /** What the runtime and the shims were asked to do, in order. */
  calls: string[];
  bundles: Map<string, { address?: ShimAddress; binary?: string }>;
  servers: Map<string, TtrpcServer>;
  topics(): string[];
  envelopes: Envelope[];
  log: LogLine[];
  create(id?: string, signal?: AbortSignal): Promise<ActorRef<TaskProtocol>>;
  task(id?: string): ActorRef<TaskProtocol>;
  /** A bundle and a living shim, as an earlier daemon left them. */
  plant(id: string, shim?: ShimHandlers): Promise<void>;
  until(holds: () => boolean): Promise<void>;
}

export const namespace = 'ns';

const request: TaskCreate = {
  launch: { runtime: 'io.fake.v1', options: undefined, spec: undefined },
  rootfs: [],
  terminal: false,
  stdin: '',
  stdout: '',
  stderr: '',
  checkpoint: '',
};

export async function createFake(t: TestContext, options: FakeOptions = {}): Promise<Fake> {
  const directory = mkdtempSync(join(tmpdir(), 'fake-'));
  const calls: string[] = [];
  const bundles: Fake['bundles'] = new Map();
  const servers: Fake['servers'] = new Map();
  const envelopes: Envelope[] = [];
  const log: LogLine[] = [];
  const allServers: TtrpcServer[] = [];

  async function serve(id: string, shim: ShimHandlers): Promise<ShimAddress> {
    const handlers = Object.fromEntries(
      Object.entries({ ...goodShim(), ...shim }).map(([name, handler]) => [
        name,
        (message: never, context: never) => {
          calls.push(`${id}.${name}`);
          return (handler as (message: never, context: never) => unknown)(message, context);
        },
      ]),
    );
    const service =
      fake.options.serves === 2
        ? ttrpcService(v2.TaskDefinition, handlers as Handlers<v2.TaskDefinition>)
        : ttrpcService(v3.TaskDefinition, handlers as ShimHandlers);
    const server = new TtrpcServer({ services: [service] });
    // A successor listens where the one before it did.
    const known = bundles.get(id)?.address?.address.slice('unix://'.length);
    const path = known ?? join(directory, `s${allServers.length}`);
    await server.listen({ path });
    servers.set(id, server);
    allServers.push(server);
    return { version: 3, protocol: 'ttrpc', address: `unix://${path}` };
  }

  const bundleOf = ({ namespace: ns, id }: ShimKey): Bundle => ({
    namespace: ns,
    id,
    path: `/bundle/${ns}/${id}`,
    workPath: `/work/${ns}/${id}`,
  });
  const stored = (bundle: Bundle) => {
    const found = bundles.get(bundle.id);
    if (found === undefined) throw fail('unknown', `no bundle ${bundle.id}`);
    return found;
  };
  const runtime: ShimRuntime = {
    bundleOf,
    async resolve(name) {
      if (name !== 'io.fake.v1') throw fail('unknown', `runtime "${name}"`);
      return '/bin/fake-shim';
    },
    async createBundle(key) {
      if (bundles.has(key.id)) throw fail('unknown', 'bundle exists');
      bundles.set(key.id, {});
      return bundleOf(key);
    },
    async removeBundle({ id }) {
      calls.push(`${id}:remove`);
      bundles.delete(id);
    },
    revives: () => fake.options.revives === true,
    running: async () => undefined,
    async start({ id }) {
      calls.push(`${id}:start`);
      await fake.options.onStart?.();
      const address = await serve(id, fake.options.shim ?? {});
      return fake.options.address?.(address) ?? address;
    },
    async delete({ id }) {
      calls.push(`${id}:delete`);
      if (fake.options.deleted !== undefined) return await fake.options.deleted();
      return v3.DeleteResponse.create({ pid: 100, exitStatus: 137 });
    },
    info: () => Promise.reject(fail('unimplemented', '-info')),
    openLog: async () => ({ close() {} }),
    reopenLog: async () => ({ close() {} }),
    dropLog: async () => undefined,
    saveSandbox: async () => undefined,
    loadSandbox: async () => undefined,
    keepSocket: async () => undefined,
    async restoreSocket({ id }) {
      return (await fake.options.restoreSocket?.(id)) ?? false;
    },
    async clearAway({ id }, dead) {
      calls.push(`${id}:clear${dead === undefined ? '' : ' shim'}`);
    },
    async saveAddress(bundle, address) {
      stored(bundle).address = address;
    },
    loadAddress: async (bundle) => stored(bundle).address,
    async saveBinary(bundle, binary) {
      stored(bundle).binary = binary;
    },
    loadBinary: async (bundle) => stored(bundle).binary,
    namespaces: async () => [namespace],
    bundles: async (ns) => [...bundles.keys()].map((id) => bundleOf({ namespace: ns, id })),
    async sweepWork(_namespace, keep) {
      calls.push(`sweep ${[...keep].sort().join(',')}`);
    },
  };

  const system = new ActorSystem({ name: 'test' });
  const tasks = new TaskDirectory(system, {
    runtime,
    dial: ttrpcShimDialer(),
    log: memoryLog(log),
    revivals: createRevivals(),
    timeouts: { ...shimTimeoutsDefault, ...options.shimTimeouts },
    taskTimeouts: { callMs: 10_000, slowCallMs: 10_000, ...options.taskTimeouts },
    publish: async (encoded) => {
      for (const bytes of encoded) envelopes.push(Envelope.decode(bytes));
    },
    toldOf: async ({ id }, pid) => ({
      created: fake.options.toldCreate === true,
      exit: await options.toldExit?.(id, pid),
      deleted: false,
    }),
    nowNs: () => 5_000_000_000n,
    recoverConcurrency: 2,
    ...(options.intensity === undefined ? {} : { intensity: options.intensity }),
    ...(options.exitReportDelayMs === undefined ? {} : { exitReportDelayMs: options.exitReportDelayMs }),
    // Recovery that is not about silent shims sees all of them answer.
    recoverWaitMs: options.recoverWaitMs ?? 60_000,
  });
  const supervisor = await Supervisor.start(system, {
    path: 'daemon',
    strategy: 'one_for_one',
    intensity: { restartsMax: 0, withinMs: 1000 },
    children: [tasks.child()],
  });
  t.after(async () => {
    await supervisor.stop({ kind: 'shutdown' });
    for (const server of allServers) await server.close();
    rmSync(directory, { recursive: true, force: true });
  });

  const fake: Fake = {
    options,
    system,
    tasks,
    runtime,
    calls,
    bundles,
    servers,
    envelopes,
    log,
    topics: () => envelopes.map(({ topic }) => topic),
    async create(id = 'web', signal = new AbortController().signal) {
      await tasks.create({ namespace, id }, request, signal);
      return fake.task(id);
    },
    task: (id = 'web') => system.ref<TaskProtocol>(taskPath(namespace, id)),
    async plant(id, shim = {}) {
      bundles.set(id, { binary: '/bin/fake-shim', address: await serve(id, shim) });
    },
    async until(holds) {
      while (!holds()) await new Promise((resolve) => setImmediate(resolve));
    },
  };
  return fake;
}
