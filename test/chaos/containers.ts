// The load of the chaos harness: containers that are made, run, killed and deleted, whatever happens around them.
import { setTimeout as sleep } from 'node:timers/promises';
import { ContainersDefinition } from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import { TasksDefinition } from '../../src/api/proto/gen/services/tasks/v1/tasks.ts';
import { Status } from '../../src/api/proto/gen/types/task/task.ts';
import type { Daemon } from '../fixtures/daemon.ts';
import type { GrpcClient } from '../fixtures/grpc.ts';

/** One container and what is known of it. */
export interface Life {
  readonly id: string;
  /** Its process ends with this when it is asked to. */
  readonly exitCode: number;
  /** Of the process, once it was started. */
  pid: number | undefined;
  /** Somebody may have sent SIGKILL. */
  killed: boolean;
  /** What Wait or Delete said. */
  status: number | undefined;
  readonly execs: Set<string>;
}

export type Random = (below: number) => number;

/** mulberry32: numbers that a seed decides. */
export function randomOf(seed: number): Random {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

const grpc = { notFound: 5, alreadyExists: 6 };
const callDeadlineMs = 60_000;
const codeOf = (error: unknown): number => Number((error as { code?: unknown }).code ?? -1);

export interface LoadOptions {
  readonly daemon: Daemon;
  readonly rootfs: string;
  readonly runtime: string;
  readonly containers: number;
  readonly random: Random;
}

export class Load {
  readonly lives: Life[] = [];
  readonly #options: LoadOptions;
  readonly #current = new Map<number, Life>();
  readonly #busy = new Set<number>();
  #client: GrpcClient;
  #count = 0;
  operations = 0;
  lastError: unknown;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#client = options.daemon.grpc();
  }

  get #at() {
    return { namespace: this.#options.daemon.namespace, deadlineMs: callDeadlineMs };
  }

  close(): void {
    this.#client[Symbol.dispose]();
  }

  /** One worker: picks a slot, does something there, until told to stop. Errors are what the daemon's deaths look like. */
  async work(stop: AbortSignal): Promise<void> {
    const { random, containers } = this.#options;
    while (!stop.aborted) {
      const slot = random(containers);
      if (this.#busy.has(slot)) {
        await sleep(5);
        continue;
      }
      this.#busy.add(slot);
      try {
        await this.#step(slot);
        this.operations++;
      } catch (error) {
        // The daemon is away, or somebody killed what this was about: the next step looks again.
        this.lastError = error;
        await sleep(50);
      } finally {
        this.#busy.delete(slot);
      }
    }
  }

  async #step(slot: number): Promise<void> {
    const { random } = this.#options;
    const life = this.#current.get(slot);
    if (life === undefined) {
      await this.#begin(slot);
      return;
    }
    const status = await this.statusOf(life);
    if (status === undefined) {
      this.#current.delete(slot);
      await this.#forget(life);
    } else if (status === Status.STOPPED) {
      await this.#delete(life);
      this.#current.delete(slot);
      await this.#forget(life);
    } else if (status === Status.CREATED) await this.#start(life);
    else {
      const action = random(10);
      if (action < 4) await this.#exec(life);
      else if (action < 7) await this.#kill(life, 15);
      else if (action < 9) await this.#kill(life, 9);
    }
  }

  /** Undefined when there is no task. */
  async statusOf({ id }: Life): Promise<Status | undefined> {
    try {
      const { process } = await this.#client.call(TasksDefinition, 'get', { containerId: id }, this.#at);
      return process?.status;
    } catch (error) {
      if (codeOf(error) === grpc.notFound) return undefined;
      throw error;
    }
  }

  async #begin(slot: number): Promise<void> {
    const number = this.#count++;
    const life: Life = {
      id: `c${number}`,
      exitCode: 10 + (number % 90),
      pid: undefined,
      killed: false,
      status: undefined,
      execs: new Set(),
    };
    this.lives.push(life);
    // Noted first: whatever becomes of the calls, the next step finds out.
    this.#current.set(slot, life);
    const { daemon, rootfs, runtime, random } = this.#options;
    // Some write without a reader: their pipes fill, and nobody else may notice.
    const loud = random(4) === 0;
    const busy = loud ? 'yes & ' : '';
    const script = `trap "exit ${life.exitCode}" TERM; ${busy}while :; do sleep 0.05; done`;
    const spec = specOf(script, `/${daemon.namespace}/${life.id}`);
    const container = {
      id: life.id,
      runtime: { name: runtime },
      spec: {
        typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Spec',
        value: Buffer.from(JSON.stringify(spec)),
      },
    };
    await this.#client.call(ContainersDefinition, 'create', { container }, this.#at);
    const mount = { type: 'bind', source: rootfs, options: ['rbind', 'ro'] };
    await this.#client.call(TasksDefinition, 'create', { containerId: life.id, rootfs: [mount] }, this.#at);
    await this.#start(life);
  }

  async #start(life: Life): Promise<void> {
    const request = { containerId: life.id };
    const { pid } = await this.#client.call(TasksDefinition, 'start', request, this.#at);
    life.pid = pid;
  }

  async #exec(life: Life): Promise<void> {
    const execId = `e${this.operations}x${life.execs.size}`;
    life.execs.add(execId);
    const process = { ...processOf(['sh', '-c', 'exit 5']), terminal: false };
    const spec = {
      typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Process',
      value: Buffer.from(JSON.stringify(process)),
    };
    const key = { containerId: life.id, execId };
    await this.#client.call(TasksDefinition, 'exec', { ...key, spec }, this.#at);
    await this.#client.call(TasksDefinition, 'start', key, this.#at);
    await this.#client.call(TasksDefinition, 'wait', key, this.#at);
    await this.#client.call(TasksDefinition, 'deleteProcess', key, this.#at);
  }

  async #kill(life: Life, signal: number): Promise<void> {
    // Before the call: it may arrive though its answer does not.
    if (signal === 9) life.killed = true;
    await this.#client.call(TasksDefinition, 'kill', { containerId: life.id, signal }, this.#at);
  }

  async #delete(life: Life): Promise<void> {
    const request = { containerId: life.id };
    const { exitStatus } = await this.#client.call(TasksDefinition, 'delete', request, this.#at);
    life.status = exitStatus;
  }

  async #forget({ id }: Life): Promise<void> {
    await this.#client.call(ContainersDefinition, 'delete', { id }, this.#at).catch((error) => {
      if (codeOf(error) !== grpc.notFound) throw error;
    });
  }

  /** Ends what is left; to be tried again until it comes through. */
  async end(life: Life): Promise<true> {
    const status = await this.statusOf(life);
    if (status !== undefined && status !== Status.STOPPED) {
      life.killed = true;
      const waiting = this.#client.call(TasksDefinition, 'wait', { containerId: life.id }, this.#at);
      waiting.catch(() => undefined);
      // Of one that was created and never started nobody waits for an end.
      if (status !== Status.CREATED) {
        await this.#kill(life, 9).catch((error) => {
          if (codeOf(error) !== grpc.notFound) throw error;
        });
        await waiting;
      }
    }
    if (status !== undefined) await this.#delete(life);
    await this.#forget(life);
    return true;
  }
}

function processOf(args: readonly string[]) {
  return {
    user: { uid: 0, gid: 0 },
    args,
    env: ['PATH=/bin'],
    cwd: '/',
    capabilities: { bounding: ['CAP_KILL'], effective: ['CAP_KILL'], permitted: ['CAP_KILL'] },
  };
}

function specOf(script: string, cgroupsPath: string) {
  return {
    ociVersion: '1.0.2',
    process: processOf(['sh', '-c', script]),
    root: { path: 'rootfs', readonly: true },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755', 'size=64k'] },
    ],
    linux: {
      cgroupsPath,
      namespaces: ['pid', 'ipc', 'uts', 'mount', 'network'].map((type) => ({ type })),
      resources: { devices: [{ allow: false, access: 'rwm' }] },
    },
  };
}
