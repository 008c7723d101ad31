// One child as its supervisor holds it: what to start, what runs, and whose turn it is.
import { KitError } from './failure.ts';
import type { ChildSpec } from './supervisor-types.ts';
import type { Child, ExitReason, KitClock, Timer } from './types.ts';

const startMsDefault = 60_000;
/** How long a start that was killed may take to reject by itself. */
const killedStartMs = 10_000;

/** Does work one after another. */
export class Lane {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => {});
    return result;
  }

  /** Settles when all work that was asked for until now is done. */
  idle(): Promise<unknown> {
    return this.#last;
  }
}

export class Slot {
  readonly spec: ChildSpec;
  readonly path: string;
  readonly lane: Lane;
  child: Child | undefined;
  restarts = 0;
  /** Its first start has had its turn; before that it is nobody's sibling. */
  begun = false;
  /** No longer wanted: whatever is on its way for this slot is dropped. */
  removed = false;
  #starting: AbortController | undefined;
  #killing: AbortController | undefined;
  #ending: Child | undefined;

  constructor(spec: ChildSpec, path: string, lane: Lane) {
    this.spec = spec;
    this.path = path;
    this.lane = lane;
  }

  /** Starts the child; `onExit` is told when it ends. A child that comes after its start was given up is stopped. */
  async launch(clock: KitClock, onExit: (child: Child, reason: ExitReason) => void): Promise<Child> {
    const { startMs = startMsDefault, shutdownMs } = this.spec;
    const starting = new AbortController();
    const killing = new AbortController();
    const abandoned = Promise.withResolvers<never>();
    let why: KitError | undefined;
    let timer: Timer | undefined;
    // Three steps: asked to give up, then killed, then no longer waited for.
    starting.signal.addEventListener('abort', () => {
      timer?.cancel();
      why ??= new KitError('unavailable', `${this.path} was stopped while it started`);
      timer = clock.setTimer(() => killing.abort(), shutdownMs);
    });
    killing.signal.addEventListener('abort', () => {
      timer?.cancel();
      timer = clock.setTimer(() => abandoned.reject(why), killedStartMs);
    });
    if (startMs !== Number.POSITIVE_INFINITY) {
      timer = clock.setTimer(() => {
        why = new KitError('deadline-exceeded', `${this.path} did not start within ${startMs} ms`);
        starting.abort();
      }, startMs);
    }
    this.#starting = starting;
    this.#killing = killing;
    let given: Child;
    try {
      const started = this.spec.start(this.path, starting.signal, killing.signal).then(async (child) => {
        if (why === undefined) return child;
        await child.stop({ kind: 'shutdown' }, killing.signal.aborted ? 0 : shutdownMs);
        throw why;
      });
      given = await Promise.race([started, abandoned.promise]);
    } catch (error) {
      throw why?.code === 'deadline-exceeded' ? why : error;
    } finally {
      timer?.cancel();
      this.#starting = undefined;
      this.#killing = undefined;
    }
    this.child = given;
    void given.exited.then((reason) => onExit(given, reason));
    return given;
  }

  /** Gives up a start in progress. */
  abortStart(): void {
    this.#starting?.abort();
  }

  async stop(reason: ExitReason, timeoutMs = this.spec.shutdownMs): Promise<void> {
    const child = this.child ?? this.#ending;
    // From here on its end is no news.
    this.child = undefined;
    this.#ending = child;
    await child?.stop(reason, timeoutMs);
    this.#ending = undefined;
  }

  /** The time for stopping is over: a child that is still about it, or about its start, is killed. */
  hurry(): void {
    this.abortStart();
    this.#killing?.abort();
    void this.#ending?.stop({ kind: 'shutdown' }, 0);
  }
}
