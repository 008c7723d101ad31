// What a container actor remembers, and how it looks from outside.
import { fail, type TroupeError } from '../../api/model/errors.ts';
import type {
  CgroupPaths,
  CgroupWatch,
  ContainerHost,
  ContainerPlace,
  RecordedProcess,
  SpecFacts,
  Stdio,
  StdioPaths,
  WatchedProcess,
} from '../../api/model/ports/container-host.ts';
import type { Log } from '../../api/model/ports/log.ts';
import type { ProcessExit } from '../../api/model/ports/process.ts';
import { goZeroTime, timestampOfNs } from '../../api/model/time.ts';
import { DeleteResponse, StateResponse, WaitResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { Status } from '../../api/proto/gen/types/task/task.ts';
import type { ActorContext } from '../../supervisor/actor.ts';
import type { Call } from '../../supervisor/types.ts';
import type { EventSender } from './events.ts';

export interface ContainerArgs {
  readonly id: string;
  readonly namespace: string;
  /** Address of the group, for the record. */
  readonly address: string;
  /** Where a container lies that this actor is to take over; undefined for one that is to be created. */
  bundle: string | undefined;
  readonly host: ContainerHost;
  readonly events: EventSender;
  readonly log: Log;
  readonly limits: ContainerLimits;
}

export interface ContainerLimits {
  /** One run of the OCI runtime. */
  readonly runtimeDeadlineMs: number;
  /** Waiting for the last output when a process is deleted. */
  readonly drainMs: number;
  /** Waiting for the daemon to acknowledge an exit before its process is deleted: a shim that dies forgets it then. */
  readonly toldMs: number;
  readonly execsMax: number;
  readonly waitersMax: number;
}

export const containerLimitsDefault: ContainerLimits = {
  runtimeDeadlineMs: 120_000,
  drainMs: 10_000,
  toldMs: 2_000,
  execsMax: 4096,
  waitersMax: 4096,
};

export interface Exit {
  readonly status: number;
  readonly atNs: bigint;
  told: boolean;
}

/** The init process or an exec. */
export interface Proc {
  /** Empty for init. */
  readonly execId: string;
  readonly paths: StdioPaths;
  /** JSON of the OCI process, for an exec that has not been started. */
  readonly process: Uint8Array;
  phase: 'created' | 'starting' | 'running' | 'stopped';
  pid: number;
  startTicks: string;
  io: Stdio | undefined;
  watched: WatchedProcess | undefined;
  /** How it ended, while that must not be told yet. */
  ended: { exit: ProcessExit | undefined; atNs: bigint } | undefined;
  exit: Exit | undefined;
  /** Its start failed: whoever waits gets an answer. */
  failed: boolean;
  deleting: boolean;
  /** The size that a client wants its terminal to have. */
  size: readonly [width: number, height: number] | undefined;
  onStopped: (() => void) | undefined;
  onTold: (() => void) | undefined;
  readonly waiters: Set<Call<WaitResponse>>;
}

/** Work of an actor's turn that follows upon something started. */
export interface ContainerSignal {
  readonly proceed: (state: ContainerState, context: ContainerContext) => void;
}

export type ContainerContext = ActorContext<ContainerSignal>;

export interface ContainerState {
  readonly args: ContainerArgs;
  place: ContainerPlace | undefined;
  spec: SpecFacts | undefined;
  init: Proc;
  readonly execs: Map<string, Proc>;
  pausing: boolean;
  paused: boolean;
  mounted: boolean;
  /** Set when Create named a checkpoint: Start restores it. */
  checkpoint: { image: string; parent: string } | undefined;
  cgroups: CgroupPaths | undefined;
  oom: CgroupWatch | undefined;
  /** Settles when the creation that is under way has come to its end, whatever end. */
  making: Promise<void>;
  /** One change of the container at a time. */
  busy: Promise<unknown>;
  /** The init process is gone: no exec may start, and its exit waits for theirs. */
  initGone: boolean;
  /** What init has left behind in a shared pid namespace is being ended. */
  endingRest: boolean;
  /** Clients know of it. */
  created: boolean;
}

export function newProc(execId: string, paths: StdioPaths, process: Uint8Array): Proc {
  return {
    execId,
    paths,
    process,
    phase: 'created',
    pid: 0,
    startTicks: '',
    io: undefined,
    watched: undefined,
    ended: undefined,
    exit: undefined,
    failed: false,
    deleting: false,
    size: undefined,
    onStopped: undefined,
    onTold: undefined,
    waiters: new Set(),
  };
}

const noPaths: StdioPaths = { terminal: false, stdin: '', stdout: '', stderr: '' };

export function newState(args: ContainerArgs): ContainerState {
  return {
    args,
    place: undefined,
    spec: undefined,
    init: newProc('', noPaths, new Uint8Array(0)),
    execs: new Map(),
    pausing: false,
    paused: false,
    mounted: false,
    checkpoint: undefined,
    cgroups: undefined,
    oom: undefined,
    making: Promise.resolve(),
    busy: Promise.resolve(),
    initGone: false,
    endingRest: false,
    created: false,
  };
}

/** The process of that name; `not-found` when there is none. */
export function procOf(state: ContainerState, execId: string): Proc {
  if (!state.created) throw fail('not-found', `container "${state.args.id}"`);
  if (execId === '') return state.init;
  const proc = state.execs.get(execId);
  if (proc === undefined) throw fail('not-found', `process "${execId}" of container "${state.args.id}"`);
  return proc;
}

export function placeOf(state: ContainerState): ContainerPlace {
  if (state.place === undefined || !state.created) throw fail('not-found', `container "${state.args.id}"`);
  return state.place;
}

/** Wrong-state errors carry no class of their own. */
export function cannot(what: string, state: string): TroupeError {
  return fail('unknown', `cannot ${what} a ${state}`);
}

export function describe(state: ContainerState, proc: Proc): string {
  const kind = proc === state.init ? 'container' : 'process';
  if (proc === state.init && state.paused) return `paused ${kind}`;
  return `${proc.phase === 'starting' ? 'starting' : proc.phase} ${kind}`;
}

export function statusOf(state: ContainerState, proc: Proc): Status {
  if (proc.phase === 'stopped') return Status.STOPPED;
  if (proc.phase === 'created' || proc.phase === 'starting') return Status.CREATED;
  if (state.paused) return Status.PAUSED;
  return state.pausing ? Status.PAUSING : Status.RUNNING;
}

export function stateResponse(state: ContainerState, proc: Proc): StateResponse {
  return StateResponse.create({
    id: state.args.id,
    bundle: placeOf(state).bundle,
    pid: proc.pid,
    status: statusOf(state, proc),
    stdin: proc.paths.stdin,
    stdout: proc.paths.stdout,
    stderr: proc.paths.stderr,
    terminal: proc.paths.terminal,
    exitStatus: proc.exit?.status ?? 0,
    exitedAt: proc.exit === undefined ? goZeroTime : timestampOfNs(proc.exit.atNs),
    execId: proc.execId,
  });
}

export function waitResponse(exit: Exit | undefined): WaitResponse {
  return WaitResponse.create({
    exitStatus: exit?.status ?? 0,
    exitedAt: exit === undefined ? goZeroTime : timestampOfNs(exit.atNs),
  });
}

export function deleteResponse(proc: Proc): DeleteResponse {
  return DeleteResponse.create({
    pid: proc.pid,
    exitStatus: proc.exit?.status ?? 0,
    exitedAt: proc.exit === undefined ? goZeroTime : timestampOfNs(proc.exit.atNs),
  });
}

function recorded(proc: Proc): RecordedProcess {
  return {
    ...proc.paths,
    pid: proc.pid,
    startTicks: proc.startTicks,
    exit:
      proc.exit === undefined
        ? undefined
        : { status: proc.exit.status, atNs: String(proc.exit.atNs), told: proc.exit.told },
  };
}

/** Writes down what another shim would need to go on from here. */
export function save(state: ContainerState): void {
  const { place, args, init, execs, mounted } = state;
  if (place === undefined) return;
  args.host.records.save({
    format: 1,
    address: args.address,
    place,
    started: init.phase === 'running' || init.phase === 'stopped',
    mounted,
    init: recorded(init),
    execs: Object.fromEntries(
      [...execs].filter(([, proc]) => proc.pid !== 0).map(([id, proc]) => [id, recorded(proc)]),
    ),
  });
}

/** 255 stands for what nobody can say any more. */
export function exitStatusOf(exit: ProcessExit | undefined): number {
  if (exit?.code !== undefined) return exit.code;
  return exit?.signal === undefined ? 255 : 128 + exit.signal;
}
