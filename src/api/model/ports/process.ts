// Starting child processes, as a port: io/sys does it, tests may hand in another.

export interface SpawnRequest {
  /** Absolute path. */
  readonly file: string;
  /** Without the name of the program itself. */
  readonly args: readonly string[];
  readonly cwd: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** A child in a process group of its own, whose id is its pid. Whoever spawns it must poll until it is reaped. */
export interface SpawnedProcess {
  readonly pid: number;
  /** This side's ends of the pipes: close-on-exec, owned by the caller. */
  readonly stdin: number;
  readonly stdout: number;
  readonly stderr: number;
  /** Reaps the child when it has ended; undefined while it runs. */
  poll(): ProcessExit | undefined;
}

export interface ProcessExit {
  /** Undefined when a signal ended it, or when somebody else reaped it. */
  readonly code: number | undefined;
  /** Number of the signal that ended it. */
  readonly signal: number | undefined;
}

/** Throws an error with an errno as `code` when the file cannot be run. */
export type Spawn = (request: SpawnRequest) => SpawnedProcess;
