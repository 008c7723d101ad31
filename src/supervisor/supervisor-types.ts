// What a supervisor is told about its children, and what it tells about them.
import type { Child, ExitReason } from './types.ts';

export type RestartPolicy = 'permanent' | 'transient' | 'temporary';

/** `one_for_one`: children are independent. `rest_for_one`: those started later depend on those before them. */
export type Strategy = 'one_for_one' | 'rest_for_one';

export interface ChildSpec {
  /** Unique among the children; the child lives at `<supervisor path>/<id>` unless `path` says otherwise. */
  readonly id: string;
  readonly path?: string;
  /** `permanent` is always restarted, `transient` after a crash, `temporary` never. */
  readonly restart: RestartPolicy;
  /** After this a child that does not stop is killed. */
  readonly shutdownMs: number;
  /** How long `start` may take before it is given up. Default 60,000. */
  readonly startMs?: number;
  /**
   * Starts the child. `starting` aborts when the start is no longer wanted or takes too long: end what was begun,
   * then reject. `killing` aborts when that took too long as well.
   */
  start(path: string, starting: AbortSignal, killing: AbortSignal): Promise<Child>;
}

export interface SupervisorOptions {
  readonly path: string;
  readonly strategy: Strategy;
  /** More than `restartsMax` restarts within `withinMs` end the supervisor, and its parent decides. */
  readonly intensity: { readonly restartsMax: number; readonly withinMs: number };
  readonly children?: readonly ChildSpec[];
  /** Default 100,000; further ones are refused with `resource-exhausted`. */
  readonly childrenMax?: number;
  /** `reverse` (default) stops one child after another, the last first; `together` all at once. */
  readonly stopOrder?: 'reverse' | 'together';
  readonly onEvent?: (event: SupervisorEvent) => void;
}

export type SupervisorEvent =
  | { kind: 'restarted'; path: string; reason: ExitReason; restarts: number }
  | { kind: 'restart-failed'; path: string; reason: ExitReason }
  | { kind: 'ended'; path: string; reason: ExitReason }
  | { kind: 'gave-up'; path: string; reason: ExitReason };

export interface ChildStatus {
  id: string;
  path: string;
  alive: boolean;
  restarts: number;
}
