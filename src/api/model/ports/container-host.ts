// What a shim needs of its machine to run containers: an OCI runtime, stdio, exits, cgroups, and what it remembers.
import type { Any } from '../../proto/gen/google/protobuf/any.ts';
import type { Mount } from '../../proto/gen/types/mount.ts';
import type { ProcessExit } from './process.ts';

/** How the OCI runtime of one container is to be run: the runc shim's Options, resolved. */
export interface RuntimeSettings {
  /** Path, or a name to look up in PATH. */
  readonly binary: string;
  /** State directory of the runtime, the namespace included. */
  readonly root: string;
  readonly systemdCgroup: boolean;
  readonly noPivotRoot: boolean;
  readonly noNewKeyring: boolean;
  readonly ioUid: number;
  readonly ioGid: number;
  readonly criuImagePath: string;
  readonly criuWorkPath: string;
}

export interface StdioPaths {
  readonly terminal: boolean;
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
}

/** Where a container lies. */
export interface ContainerPlace {
  readonly id: string;
  readonly namespace: string;
  readonly bundle: string;
  readonly settings: RuntimeSettings;
}

/** What the shim itself has to know of an OCI spec. */
export interface SpecFacts {
  readonly hasHooks: boolean;
  /** The container has a pid namespace of its own: when its init dies, the kernel ends the rest. */
  readonly privatePid: boolean;
  readonly rootPath: string;
  readonly annotations: Readonly<Record<string, string>>;
  /** What it runs and where that is looked for; undefined when the spec does not say. */
  readonly command:
    | { readonly name: string; readonly searchPath: readonly string[]; readonly cwd: string }
    | undefined;
  readonly mountPoints: readonly string[];
}

/** Streams of one process: what the runtime gets as descriptors 0 to 2, and what stays here. */
export interface Stdio {
  readonly fds: readonly number[];
  /** Where the runtime is to send the terminal's master; undefined without a terminal. */
  readonly consoleSocket: string | undefined;
  /** Once the runtime has been started: the descriptors handed over are closed on this side. */
  handedOver(): void;
  /** Waits for the terminal when there is one. */
  attached(signal: AbortSignal): Promise<void>;
  resize(width: number, height: number): void;
  closeStdin(): void;
  /** Waits until what the process has written is passed on, at most `timeoutMs`. */
  drain(timeoutMs: number): Promise<void>;
  close(): void;
}

export interface StdioOwner {
  readonly namespace: string;
  /** Container id, or exec id: what loggers are told. */
  readonly name: string;
  readonly ioUid: number;
  readonly ioGid: number;
}

export interface CommandLimits {
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** The OCI runtime's operations. Errors carry its own message. */
export interface OciRuntime {
  create(place: ContainerPlace, io: Stdio, limits: CommandLimits): Promise<number>;
  restore(
    place: ContainerPlace,
    io: Stdio,
    checkpoint: { image: string; parent: string },
    limits: CommandLimits,
  ): Promise<number>;
  start(place: ContainerPlace, spec: SpecFacts, limits: CommandLimits): Promise<void>;
  exec(
    place: ContainerPlace,
    exec: { id: string; process: Uint8Array },
    io: Stdio,
    limits: CommandLimits,
  ): Promise<number>;
  kill(place: ContainerPlace, signal: number, all: boolean, limits: CommandLimits): Promise<void>;
  /** Removes what the runtime keeps of a stopped container; one that is gone already is fine. */
  delete(
    place: ContainerPlace,
    spec: SpecFacts | undefined,
    force: boolean,
    limits: CommandLimits,
  ): Promise<void>;
  pause(place: ContainerPlace, limits: CommandLimits): Promise<void>;
  resume(place: ContainerPlace, limits: CommandLimits): Promise<void>;
  update(place: ContainerPlace, resources: Uint8Array, limits: CommandLimits): Promise<void>;
  processes(place: ContainerPlace, limits: CommandLimits): Promise<number[]>;
  checkpoint(
    place: ContainerPlace,
    to: { image: string; work: string; options: Any | undefined },
    limits: CommandLimits,
  ): Promise<void>;
  /** Whether the processes of the container are those that the kernel here shows, as with runc and crun. */
  sharesKernel(place: ContainerPlace): Promise<boolean>;
}

/** One watched process. */
export interface WatchedProcess {
  /** Sends a signal to this very process, never to a later one of the same number; false when it has ended. */
  signal(signal: number): boolean;
  /** Stops watching. */
  close(): void;
}

export interface ExitWatch {
  /**
   * Tells once when the process ends. `exit` is undefined when it ended and nobody can say how. A process that ended
   * before it was watched is told of as well, if it was this process's child.
   */
  watch(pid: number, onExit: (exit: ProcessExit | undefined) => void): WatchedProcess;
}

export interface CgroupWatch {
  close(): void;
}

export interface Cgroups {
  /** Directories of the cgroups of a process, by hierarchy. */
  locate(pid: number): CgroupPaths | undefined;
  /** `io.containerd.cgroups.v1.Metrics` or `v2.Metrics`; `not-found` when there is no cgroup. */
  stats(paths: CgroupPaths): Promise<Any>;
  /** Whether the cgroup's processes are frozen. */
  paused(paths: CgroupPaths): boolean;
  /** Process ids of the cgroup and those below it; undefined when it is gone. */
  processes(paths: CgroupPaths): number[] | undefined;
  /** Tells of processes that the kernel killed for want of memory. */
  watchOom(paths: CgroupPaths, onOom: () => void): CgroupWatch;
}

export interface CgroupPaths {
  /** The one hierarchy of version 2; undefined with version 1 and in hybrid mode. */
  readonly unified: string | undefined;
  /** Directories of version 1 by controller. */
  readonly controllers: Readonly<Record<string, string>>;
}

export interface RecordedExit {
  readonly status: number;
  readonly atNs: string;
  /** The daemon has acknowledged the exit event. */
  readonly told: boolean;
}

export interface RecordedProcess extends StdioPaths {
  /** 0: not started. */
  readonly pid: number;
  /** Start time in clock ticks (proc_pid_stat(5)): with the pid the identity of a process. */
  readonly startTicks: string;
  readonly exit: RecordedExit | undefined;
}

/** What another shim process needs to take a container over; kept in its bundle. */
export interface ContainerRecord {
  readonly format: 1;
  /** Address of the group that the container belongs to. */
  readonly address: string;
  readonly place: ContainerPlace;
  readonly started: boolean;
  readonly mounted: boolean;
  readonly init: RecordedProcess;
  readonly execs: Readonly<Record<string, RecordedProcess>>;
}

export interface ContainerRecords {
  save(record: ContainerRecord): void;
  load(bundle: string): ContainerRecord | undefined;
  /** Puts in place of the record what the `delete` command is to say. */
  deleted(bundle: string, response: Uint8Array): void;
  /** Removes the record of a container that came to nothing. */
  forget(bundle: string): void;
}

/** A sandbox, as it is kept in its bundle. */
export interface SandboxRecord {
  readonly format: 1;
  readonly id: string;
  readonly netnsPath: string;
  readonly state: 'created' | 'ready' | 'stopped';
  /** Its root file system was mounted. */
  readonly mounted: boolean;
  /** Decimal, nanoseconds since the epoch. */
  readonly createdAtNs: string;
  readonly exitedAtNs?: string;
}

export interface SandboxRecords {
  save(bundle: string, record: SandboxRecord): void;
  load(bundle: string): SandboxRecord | undefined;
  forget(bundle: string): void;
}

export interface ContainerHost {
  readonly runtime: OciRuntime;
  readonly exits: ExitWatch;
  readonly cgroups: Cgroups;
  readonly records: ContainerRecords;
  readonly sandboxes: SandboxRecords;
  /** Throws `resource-exhausted` when hardly more descriptors are left than it takes to end what runs. */
  ensureDescriptors(): void;
  settingsOf(namespace: string, bundle: string, options: Any | undefined): RuntimeSettings;
  readSpec(bundle: string): SpecFacts;
  /** false when a container's command is surely not in its root file system. */
  showsCommand(bundle: string, spec: SpecFacts): boolean;
  openStdio(paths: StdioPaths, owner: StdioOwner, signal: AbortSignal): Promise<Stdio>;
  /** Takes hold again of the streams of a process that another shim has started. */
  adoptStdio(paths: StdioPaths): Stdio;
  mountRootfs(bundle: string, mounts: readonly Mount[]): void;
  unmountRootfs(bundle: string): Promise<void>;
  /** Start time of a process in clock ticks; undefined when there is none. */
  startTicksOf(pid: number): string | undefined;
  nowNs(): bigint;
}
