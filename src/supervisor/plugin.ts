// A graph of plugins: registered in any order, initialised after what they require, failures kept as findings.
import { KitError, messageOf } from './failure.ts';
import type { KitClock } from './types.ts';

export interface PluginInit {
  /** Aborts when `init` has taken too long. */
  readonly signal: AbortSignal;
  /** The instances of a required type by plugin id, in initialisation order; those that failed are left out. */
  all<T>(type: string): ReadonlyMap<string, T>;
  /** The one instance of a required type, or that with `id`. `unavailable` when it failed or none is there. */
  get<T>(type: string, id?: string): T;
  /** Adds to what the plugin says of itself. */
  export(key: string, value: string): void;
  addCapability(capability: string): void;
}

export interface PluginRegistration<Platform = unknown> {
  /** Kind of the plugin; several may share it. */
  readonly type: string;
  /** Unique within its type. */
  readonly id: string;
  /**
   * Types whose plugins are initialised before; the only ones that `init` may ask for. `*` is every type, and those
   * that require it come last.
   */
  readonly requires?: readonly string[];
  readonly exports?: Readonly<Record<string, string>>;
  readonly capabilities?: readonly string[];
  readonly platforms?: readonly Platform[];
  /** When it fails, `initialise` fails too. */
  readonly required?: boolean;
  /** Default 30,000. */
  readonly initDeadlineMs?: number;
  /** What it returns is the instance; one with `Symbol.asyncDispose` is disposed on close. */
  init(context: PluginInit): unknown;
}

/** A plugin as others may see it. */
export interface PluginStatus<Platform = unknown> {
  readonly type: string;
  readonly id: string;
  readonly requires: readonly string[];
  readonly exports: Readonly<Record<string, string>>;
  readonly capabilities: readonly string[];
  readonly platforms: readonly Platform[];
  /** `waiting` until its turn has come. */
  readonly state: 'waiting' | 'ready' | 'failed' | 'skipped';
  /** Why it is not there; `code` is that of the error thrown. */
  readonly error: { readonly code: string; readonly message: string; readonly cause: unknown } | undefined;
}

interface Node<Platform> {
  readonly registration: PluginRegistration<Platform>;
  readonly requires: readonly string[];
  readonly exports: Record<string, string>;
  readonly capabilities: string[];
  state: PluginStatus['state'];
  instance: unknown;
  error: PluginStatus['error'];
}

const initDeadlineMsDefault = 30_000;
const everyType = '*';

/** Thrown by `init` to say that the plugin is of no use on this machine, which is no failure. */
export class PluginSkipped extends Error {
  readonly code = 'unavailable';
  constructor(why: string) {
    super(why);
    this.name = 'PluginSkipped';
  }
}

export class PluginGraph<Platform = unknown> {
  readonly #clock: KitClock;
  readonly #nodes = new Map<string, Node<Platform>>();
  readonly #order: Node<Platform>[] = [];
  #phase: 'open' | 'initialising' | 'ready' | 'closed' = 'open';

  constructor(clock: KitClock) {
    this.#clock = clock;
  }

  /** `already-exists` when the type has this id already. */
  register(registration: PluginRegistration<Platform>): void {
    const { type, id, requires = [], exports = {}, capabilities = [] } = registration;
    if (this.#phase !== 'open') throw new KitError('unavailable', 'plugins are initialised already');
    if (type === '' || id === '' || type === everyType)
      throw new KitError('internal', `plugin "${type}" "${id}" needs a type and an id`);
    const key = keyOf(type, id);
    if (this.#nodes.has(key)) throw new KitError('already-exists', `plugin ${type} ${id} is registered`);
    this.#nodes.set(key, {
      registration,
      requires,
      exports: { ...exports },
      capabilities: [...capabilities],
      state: 'waiting',
      instance: undefined,
      error: undefined,
    });
  }

  /**
   * Initialises all plugins one after another, each after those of the types that it requires, else in the order
   * of their registration. A failure is kept and does not stop the others, unless the plugin is `required`: then
   * its error is thrown. A cycle throws `internal` before anything is initialised.
   */
  async initialise(): Promise<void> {
    if (this.#phase !== 'open') throw new KitError('unavailable', 'plugins are initialised already');
    const order = this.#sort();
    this.#phase = 'initialising';
    for (const node of order) {
      this.#order.push(node);
      await this.#initialise(node);
      if (node.state === 'failed' && node.registration.required) throw node.error?.cause;
    }
    this.#phase = 'ready';
  }

  /** In initialisation order; those whose turn has not come are last, in order of registration. */
  list(): PluginStatus<Platform>[] {
    const waiting = [...this.#nodes.values()].filter((node) => !this.#order.includes(node));
    return [...this.#order, ...waiting].map((node) => ({
      type: node.registration.type,
      id: node.registration.id,
      requires: [...node.requires],
      exports: { ...node.exports },
      capabilities: [...node.capabilities],
      platforms: [...(node.registration.platforms ?? [])],
      state: node.state,
      error: node.error,
    }));
  }

  /** The instance of a plugin; `not-found` when it is not registered, `unavailable` when it has none. */
  instance<T>(type: string, id: string): T {
    const node = this.#nodes.get(keyOf(type, id));
    if (node === undefined) throw new KitError('not-found', `plugin ${type} ${id} is not registered`);
    if (node.state !== 'ready') throw unusable(node);
    return node.instance as T;
  }

  /** Disposes the instances in reverse order; the errors of all are thrown as one when some fail. */
  async close(): Promise<void> {
    this.#phase = 'closed';
    const errors: unknown[] = [];
    for (const node of this.#order.reverse()) {
      if (node.state !== 'ready') continue;
      try {
        await dispose(node.instance);
      } catch (error) {
        errors.push(error);
      }
    }
    this.#order.reverse();
    if (errors.length > 0) throw new AggregateError(errors, `${errors.length} plugins did not close`);
  }

  async #initialise(node: Node<Platform>): Promise<void> {
    const { registration } = node;
    const controller = new AbortController();
    const deadlineMs = registration.initDeadlineMs ?? initDeadlineMsDefault;
    const late = Promise.withResolvers<never>();
    const timer = this.#clock.setTimer(() => {
      const error = new KitError('deadline-exceeded', `init took over ${deadlineMs} ms`);
      late.reject(error);
      controller.abort(error);
    }, deadlineMs);
    try {
      const context = this.#context(node, controller.signal);
      const making = Promise.resolve(registration.init(context));
      making.then(
        // One that comes too late is not left lying about.
        (instance) => (controller.signal.aborted ? dispose(instance) : undefined),
        () => {},
      );
      node.instance = await Promise.race([making, late.promise]);
      node.state = 'ready';
    } catch (error) {
      node.state = error instanceof PluginSkipped ? 'skipped' : 'failed';
      const { code } = (error ?? {}) as { code?: unknown };
      node.error = {
        code: typeof code === 'string' ? code : 'unknown',
        message: messageOf(error),
        cause: error,
      };
    } finally {
      timer.cancel();
    }
  }

  #context(node: Node<Platform>, signal: AbortSignal): PluginInit {
    const ofType = (type: string) => {
      if (!node.requires.includes(type) && !node.requires.includes(everyType))
        throw new KitError(
          'internal',
          `plugin ${node.registration.type} ${node.registration.id} does not require ${type}`,
        );
      return this.#order.filter((other) => other !== node && other.registration.type === type);
    };
    return {
      signal,
      all: <T>(type: string) =>
        new Map(
          ofType(type)
            .filter((other) => other.state === 'ready')
            .map((other) => [other.registration.id, other.instance as T]),
        ),
      get: <T>(type: string, id?: string) => {
        const found = ofType(type).filter((other) => id === undefined || other.registration.id === id);
        const ready = found.filter((other) => other.state === 'ready');
        if (ready.length > 1) throw new KitError('internal', `there is more than one plugin of type ${type}`);
        const [only] = ready;
        if (only !== undefined) return only.instance as T;
        const [failed] = found;
        if (failed !== undefined) throw unusable(failed);
        throw new KitError(
          'unavailable',
          `there is no plugin of type ${type}${id === undefined ? '' : ` ${id}`}`,
        );
      },
      export: (key, value) => {
        node.exports[key] = value;
      },
      addCapability: (capability) => void node.capabilities.push(capability),
    };
  }

  #sort(): Node<Platform>[] {
    const order: Node<Platform>[] = [];
    const seen = new Map<Node<Platform>, 'visiting' | 'done'>();
    const visit = (node: Node<Platform>, trail: readonly string[]) => {
      const name = `${node.registration.type} ${node.registration.id}`;
      if (seen.get(node) === 'done') return;
      if (seen.get(node) === 'visiting')
        throw new KitError('internal', `plugins require each other: ${[...trail, name].join(' > ')}`);
      seen.set(node, 'visiting');
      for (const other of this.#nodes.values()) {
        if (other !== node && comesAfter(node, other)) visit(other, [...trail, name]);
      }
      seen.set(node, 'done');
      order.push(node);
    };
    for (const node of this.#nodes.values()) visit(node, []);
    return order;
  }
}

function comesAfter(node: Node<unknown>, other: Node<unknown>): boolean {
  if (node.requires.includes(other.registration.type)) return true;
  return node.requires.includes(everyType) && !other.requires.includes(everyType);
}

async function dispose(instance: unknown): Promise<void> {
  await (instance as Partial<AsyncDisposable> | undefined | null)?.[Symbol.asyncDispose]?.();
}

function unusable(node: Node<unknown>): KitError {
  const { type, id } = node.registration;
  const why = node.error === undefined ? 'is not initialised' : `failed: ${node.error.message}`;
  return new KitError('unavailable', `plugin ${type} ${id} ${why}`, { cause: node.error?.cause });
}

function keyOf(type: string, id: string): string {
  return `${type}\0${id}`;
}
