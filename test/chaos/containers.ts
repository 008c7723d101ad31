// The load of the chaos harness: containers that are made, run, killed and deleted, whatever happens around them.
import { closeSync, constants, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ContainersDefinition } from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import { TasksDefinition } from '../../src/api/proto/gen/services/tasks/v1/tasks.ts';
import { Options } from '../../src/api/proto/gen/types/runc/options/oci.ts';
import { Status } from '../../src/api/proto/gen/types/task/task.ts';
import { createSys } from '../../src/io/sys/sys.ts';
import type { Daemon } from '../fixtures/daemon.ts';
import type { GrpcClient } from '../fixtures/grpc.ts';

/** One container and what is known of it. */
export interface Life {
  readonly id: string;
  /** Its process ends with this when it is asked to. */
  readonly exitCode: number;
  /** Of the process, once it was started. */
  pid: number | undefined;
  /** Somebody may have sent it a signal. */
  signalled: boolean;
  /** Somebody may have sent SIGKILL: a client, or who cleans up after a shim that is not ours. */
  killed: boolean;
  /** A shim of ours was killed while this may have been ending: the kernel may have told nobody how. */
  unsure: boolean;
  /** What Delete said. */
  status: number | undefined;
  /** What Wait said, if it could be asked to the end. */
  waited: number | undefined;
  /** By exec id what Wait said. */
  readonly execs: Map<string, number | undefined>;
  /** Reads nothing: what the container prints fills the pipe. */
  output: number | undefined;
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
/** Limits that a loaded machine does not reach: it is not to be what fails. */
const callDeadlineMs = 120_000;
const startDeadlineMs = 60_000;
const waitDeadlineMs = 3_600_000;
const codeOf = (error: unknown): number => Number((error as { code?: unknown }).code ?? -1);

export interface LoadOptions {
  readonly daemon: Daemon;
  readonly rootfs: string;
  readonly runtime: string;
  /** Name or path of the OCI runtime; empty: the shim's default. */
  readonly binary: string;
  readonly containers: number;
  readonly random: Random;
}

export class Load implements Disposable {
  readonly lives: Life[] = [];
  readonly #options: LoadOptions;
  readonly #current = new Map<number, Life>();
  readonly #busy = new Set<number>();
  readonly #waits: Promise<void>[] = [];
  readonly #hurried = new AbortController();
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

  /** Waits that were begun have been answered, or have no task to ask for any more. */
  async settled(): Promise<void> {
    await Promise.all(this.#waits);
  }

  [Symbol.dispose](): void {
    this.#hurried.abort();
    for (const life of this.lives) this.#hangUp(life);
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
      signalled: false,
      killed: false,
      unsure: false,
      status: undefined,
      waited: undefined,
      execs: new Map(),
      output: undefined,
    };
    this.lives.push(life);
    // Noted first: whatever becomes of the calls, the next step finds out.
    this.#current.set(slot, life);
    const { daemon, rootfs, runtime, binary, random } = this.#options;
    // Some print to somebody who does not read: their pipes fill, and nobody else may notice.
    const loud = random(8) === 0;
    const io = loud ? this.#openPipe(life) : {};
    const busy = loud ? 'yes & ' : '';
    const script = `trap "exit ${life.exitCode}" TERM; ${busy}while :; do sleep 0.05; done`;
    const spec = specOf(script, `/${daemon.namespace}/${life.id}`);
    const container = {
      id: life.id,
      runtime: { name: runtime, ...(binary === '' ? {} : { options: optionsOf(binary) }) },
      spec: {
        typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Spec',
        value: Buffer.from(JSON.stringify(spec)),
      },
    };
    await this.#client.call(ContainersDefinition, 'create', { container }, this.#at);
    const mount = { type: 'bind', source: rootfs, options: ['rbind', 'ro'] };
    const request = { containerId: life.id, rootfs: [mount], ...io };
    await this.#client.call(TasksDefinition, 'create', request, this.#at);
    await this.#start(life);
  }

  async #start(life: Life): Promise<void> {
    const request = { containerId: life.id };
    // runc waits for ever for a container that was let go by a start before it that was killed.
    const options = { ...this.#at, deadlineMs: startDeadlineMs };
    const { pid } = await this.#client.call(TasksDefinition, 'start', request, options);
    life.pid = pid;
    this.#waits.push(this.#watch(life));
  }

  /** As clients do: waits for the end, and again when the daemon was away. */
  async #watch(life: Life): Promise<void> {
    while (!this.#hurried.signal.aborted) {
      try {
        const wait = { containerId: life.id };
        const options = { namespace: this.#options.daemon.namespace, deadlineMs: waitDeadlineMs };
        const { exitStatus } = await this.#client.call(TasksDefinition, 'wait', wait, options);
        life.waited = exitStatus;
        return;
      } catch (error) {
        if (codeOf(error) === grpc.notFound) return;
        await sleep(100);
      }
    }
  }

  #openPipe(life: Life): { stdout: string; stderr: string } {
    const path = join(this.#options.daemon.directory, `out-${life.id}`);
    createSys().mkfifo(path, 0o600);
    life.output = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    return { stdout: path, stderr: path };
  }

  /** As clients do when their task is deleted. */
  #hangUp(life: Life): void {
    if (life.output === undefined) return;
    closeSync(life.output);
    life.output = undefined;
    rmSync(join(this.#options.daemon.directory, `out-${life.id}`), { force: true });
  }

  async #exec(life: Life): Promise<void> {
    const execId = `e${this.operations}x${life.execs.size}`;
    life.execs.set(execId, undefined);
    const process = { ...processOf(['sh', '-c', 'exit 5']), terminal: false };
    const spec = {
      typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Process',
      value: Buffer.from(JSON.stringify(process)),
    };
    const key = { containerId: life.id, execId };
    await this.#client.call(TasksDefinition, 'exec', { ...key, spec }, this.#at);
    await this.#client.call(TasksDefinition, 'start', key, this.#at);
    const { exitStatus } = await this.#client.call(TasksDefinition, 'wait', key, this.#at);
    life.execs.set(execId, exitStatus);
    await this.#client.call(TasksDefinition, 'deleteProcess', key, this.#at);
  }

  async #kill(life: Life, signal: number): Promise<void> {
    // Before the call: it may arrive though its answer does not.
    life.signalled = true;
    if (signal === 9) life.killed = true;
    await this.#client.call(TasksDefinition, 'kill', { containerId: life.id, signal }, this.#at);
  }

  async #delete(life: Life): Promise<void> {
    const request = { containerId: life.id };
    const { exitStatus } = await this.#client.call(TasksDefinition, 'delete', request, this.#at);
    life.status = exitStatus;
  }

  async #forget(life: Life): Promise<void> {
    const { id } = life;
    this.#hangUp(life);
    await this.#client.call(ContainersDefinition, 'delete', { id }, this.#at).catch((error) => {
      if (codeOf(error) !== grpc.notFound) throw error;
    });
  }

  /** Ends what is left; to be tried again until it comes through. */
  async end(life: Life): Promise<true> {
    const status = await this.statusOf(life);
    if (status !== undefined && status !== Status.STOPPED) {
      life.signalled = true;
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

function optionsOf(binaryName: string) {
  const value = Options.encode(Options.create({ binaryName })).finish();
  return { typeUrl: 'containerd.runc.v1.Options', value };
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
