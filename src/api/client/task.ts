// Tasks and their processes: start, wait, signal, resize, exec, delete, with the streams that belong to them.
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, fail } from '../model/errors.ts';
import type { Timestamp } from '../proto/gen/google/protobuf/timestamp.ts';
import { type ProcessInfo, type Process as ProcessRecord, Status } from '../proto/gen/types/task/task.ts';
import type { Services } from './connection.ts';
import { type IoFactory, nullIo, type TaskIo } from './io.ts';
import { type OciProcess, processTypeUrl } from './spec.ts';
import type { CallOptions } from './stub.ts';

export interface ExitStatus {
  /** Exit code, or 128 plus the signal. */
  code: number;
  exitedAt: Timestamp | undefined;
}

export interface KillOptions extends CallOptions {
  /** Every process of the container, not only the first. */
  all?: boolean;
}

/** The init process of a task or one that was added to it. */
export interface Process {
  readonly containerId: string;
  /** Empty for the init process. */
  readonly execId: string;
  /** 0 until started. */
  readonly pid: number;
  start(options?: CallOptions): Promise<number>;
  /** Resolves when it has ended; a daemon that restarts meanwhile is asked again. */
  wait(options?: CallOptions): Promise<ExitStatus>;
  kill(signal: number, options?: KillOptions): Promise<void>;
  status(options?: CallOptions): Promise<ProcessRecord>;
  resize(width: number, height: number, options?: CallOptions): Promise<void>;
  closeStdin(options?: CallOptions): Promise<void>;
  /**
   * Waits for the output to be copied and removes the process. Throws `failed-precondition` while it runs, unless
   * `force` kills it first.
   */
  delete(options?: CallOptions & { force?: boolean }): Promise<ExitStatus>;
}

export interface Task extends Process {
  exec(execId: string, process: OciProcess, io?: IoFactory, options?: CallOptions): Promise<Process>;
  pause(options?: CallOptions): Promise<void>;
  resume(options?: CallOptions): Promise<void>;
  pids(options?: CallOptions): Promise<ProcessInfo[]>;
}

export const sigkill = 9;
const drainMsMax = 10_000;
const reconnectMsMax = 30_000;
const reconnectPauseMs = 200;

export interface ProcessState {
  containerId: string;
  execId: string;
  pid: number;
  /** Undefined for a process that somebody else has made. */
  io: TaskIo | undefined;
}

export function makeProcess(services: Services, state: ProcessState): Process {
  const { tasks } = services;
  const { containerId, execId, io } = state;
  const target = { containerId, execId };
  const self: Process = {
    containerId,
    execId,
    get pid() {
      return state.pid;
    },
    async start(options) {
      const { pid } = await tasks.start(target, options);
      state.pid = pid;
      // The container's end of stdin closes with ours. It may have exited by then, which is no error.
      io?.feedStdin(() => void self.closeStdin().catch(() => {}));
      return pid;
    },
    async wait(options = {}) {
      const { exitStatus, exitedAt } = await patiently(options, () =>
        tasks.wait(target, { ...options, deadlineMs: options.deadlineMs ?? Number.POSITIVE_INFINITY }),
      );
      return { code: exitStatus, exitedAt };
    },
    async kill(signal, { all = false, ...options } = {}) {
      await tasks.kill({ ...target, signal, all }, options);
    },
    async status(options) {
      const { process } = await tasks.get(target, options);
      if (process === undefined)
        throw fail('internal', `task ${containerId}: the server answers without a process`);
      return process;
    },
    async resize(width, height, options) {
      await tasks.resizePty({ ...target, width, height }, options);
    },
    async closeStdin(options) {
      io?.closeStdin();
      await tasks.closeIO({ ...target, stdin: true }, options);
    },
    async delete({ force = false, ...options } = {}) {
      try {
        if (force) await forceEnd(self, options);
        const status = await refuseUnlessEnded(self, options);
        // The other end of a process that was never started has not been opened, so it will not be closed either.
        if (status !== Status.CREATED) await drainedOrLate(io);
        const reply =
          execId === ''
            ? await tasks.delete({ containerId }, options)
            : await tasks.deleteProcess(target, options);
        await io?.close();
        return { code: reply.exitStatus, exitedAt: reply.exitedAt };
      } catch (error) {
        // A process that is not there, such as one whose start failed, has no use for its streams.
        if (codeOf(error) === 'not-found') await io?.close();
        throw error;
      }
    },
  };
  return self;
}

export function makeTask(services: Services, state: ProcessState): Task {
  const { tasks } = services;
  const { containerId } = state;
  const init = makeProcess(services, state);
  return Object.defineProperties({} as Task, {
    ...Object.getOwnPropertyDescriptors(init),
    ...Object.getOwnPropertyDescriptors({
      async exec(execId: string, process: OciProcess, factory: IoFactory = nullIo, options?: CallOptions) {
        const io = await factory(execId, process.terminal ?? false);
        const spec = { typeUrl: processTypeUrl, value: Buffer.from(JSON.stringify(process)) };
        try {
          await tasks.exec({ containerId, execId, spec, ...io.addresses }, options);
        } catch (error) {
          await io.close();
          throw error;
        }
        return makeProcess(services, { containerId, execId, pid: 0, io });
      },
      async pause(options?: CallOptions) {
        await tasks.pause({ containerId }, options);
      },
      async resume(options?: CallOptions) {
        await tasks.resume({ containerId }, options);
      },
      async pids(options?: CallOptions) {
        return (await tasks.listPids({ containerId }, options)).processes;
      },
    }),
  });
}

/** Asks again for a while when the daemon goes away: its containers outlive it. */
async function patiently<T>(options: CallOptions, ask: () => Promise<T>): Promise<T> {
  let since: number | undefined;
  for (;;) {
    const asked = Date.now();
    try {
      return await ask();
    } catch (error) {
      if (codeOf(error) !== 'unavailable') throw error;
      // A wait that lasted means that the daemon was there until now.
      if (since === undefined || Date.now() - asked > reconnectMsMax) since = Date.now();
      if (Date.now() - since > reconnectMsMax) throw error;
      await sleep(
        reconnectPauseMs,
        undefined,
        options.signal === undefined ? {} : { signal: options.signal },
      );
    }
  }
}

async function forceEnd(process: Process, options: CallOptions): Promise<void> {
  const { status } = await process.status(options);
  // A process that was never started is nobody to kill, and its exit would never come.
  if (status === Status.STOPPED || (status === Status.CREATED && process.execId !== '')) return;
  const stop = new AbortController();
  const signal = options.signal === undefined ? stop.signal : AbortSignal.any([options.signal, stop.signal]);
  const exit = process.wait({ ...options, signal });
  try {
    await process.kill(sigkill, { ...options, all: process.execId === '' });
    await exit;
  } catch (error) {
    if (codeOf(error) !== 'not-found') throw error;
  } finally {
    exit.catch(() => {});
    stop.abort();
  }
}

async function refuseUnlessEnded(process: Process, options: CallOptions): Promise<Status> {
  const { status, pid } = await process.status(options);
  if (status === Status.STOPPED || status === Status.UNKNOWN) return status;
  if (status === Status.CREATED && (pid === 0 || process.execId !== '')) return status;
  const what = process.execId === '' ? `task ${process.containerId}` : `process ${process.execId}`;
  const name = Object.entries(Status)
    .find(([, value]) => value === status)?.[0]
    .toLowerCase();
  throw fail('failed-precondition', `${what} must be stopped before deletion: ${name}`);
}

/** Output may be held open by a stranger for ever; past the limit what is left is given up. */
async function drainedOrLate(io: TaskIo | undefined): Promise<void> {
  if (io === undefined) return;
  const stop = new AbortController();
  const late = sleep(drainMsMax, undefined, { signal: stop.signal }).catch(() => {});
  await Promise.race([io.drained, late]);
  stop.abort();
}
