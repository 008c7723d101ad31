// What the workers of a crash trial share: the client, the model, locks on objects, and how an operation is tried.
import { type ServiceError, status } from '@grpc/grpc-js';
import type { GrpcClient } from '../fixtures/grpc.ts';
import type { Random } from '../sim/random.ts';
import { type Changes, type Data, type Key, keysOf, Model } from './model.ts';
import type { Payload } from './payloads.ts';
import type { PullableImage } from './registry.ts';

/** The daemon was killed under an operation; nobody knows what became of it. */
export class Interrupted extends Error {}

/** One answer that an operation may get, and what it means. */
export interface Outcome {
  /** `OK`, or the name of a gRPC status. */
  readonly code: string;
  readonly changes?: Iterable<readonly [Key, Data | undefined]>;
  /** More that the answer tells about what was written. */
  readonly learn?: (reply: never) => Iterable<readonly [Key, Data | undefined]>;
}

export interface IngestNote {
  readonly payload: Payload;
  /** No more bytes than these were ever sent. */
  readonly sentBytes: number;
}

export const namespaces = ['red', 'green', 'blue'] as const;
export const snapshotters = ['overlayfs', 'native'] as const;

export class World {
  readonly model = new Model();
  readonly random: Random;
  readonly payloads: readonly Payload[];
  /** Ingests that may be there, by `<namespace>|<ref>`. */
  readonly ingests = new Map<string, IngestNote>();
  /** Objects of which only the next check will tell what became of them. */
  readonly uncertain = new Set<Key>();
  /** Images in a registry, of which some are pulled. */
  images: readonly PullableImage[] = [];
  /** Pulls that may have left something of their own behind, by the key of their image. */
  readonly pulling = new Set<Key>();
  /** A directory with a file, for mounts. */
  tree = '';
  /** Codes with which a daemon without room may refuse anything. */
  refusals: ReadonlySet<string> = new Set();
  /** The daemon may end by itself: an answer that is not its own tells nothing. */
  mayEnd = false;
  client: GrpcClient | undefined;
  /** No answer tells anything any more. */
  killed = false;
  begun = 0;
  answered = 0;
  refused = 0;
  unanswered = 0;
  pulls = 0;
  activations = 0;
  #counter = 0;
  readonly #locks = new Map<Key, number>();

  constructor(random: Random, payloads: readonly Payload[]) {
    this.random = random;
    this.payloads = payloads;
  }

  get calls(): GrpcClient {
    if (this.client === undefined) throw new Error('there is no daemon now');
    return this.client;
  }

  unique(prefix: string): string {
    return `${prefix}${++this.#counter}`;
  }

  /** Runs `work` with the objects to itself (`write`) or unchanged by others (`read`); false when they are busy. */
  async withLocks(
    { write, read = [] }: { write: readonly Key[]; read?: readonly Key[] },
    work: () => Promise<void>,
  ): Promise<boolean> {
    const exclusive = [...new Set(write)];
    if ([...write, ...read].some((key) => this.uncertain.has(key))) return false;
    const shared = [...new Set(read)].filter((key) => !exclusive.includes(key));
    if (exclusive.some((key) => this.#locks.has(key))) return false;
    if (shared.some((key) => (this.#locks.get(key) ?? 0) < 0)) return false;
    for (const key of exclusive) this.#locks.set(key, -1);
    for (const key of shared) this.#locks.set(key, (this.#locks.get(key) ?? 0) + 1);
    try {
      await work();
    } finally {
      for (const key of exclusive) this.#locks.delete(key);
      for (const key of shared) {
        const left = (this.#locks.get(key) ?? 1) - 1;
        if (left === 0) this.#locks.delete(key);
        else this.#locks.set(key, left);
      }
    }
    return true;
  }

  /**
   * Tries an operation that must get one of `outcomes`; the answer's code. Throws {@link Interrupted} when the
   * daemon was killed under it. Refused, it must have done nothing, unless it is `inSteps`; what has a `last` object
   * may stop between any two steps.
   */
  async attempt(
    text: string,
    outcomes: readonly Outcome[],
    call: () => Promise<unknown>,
    { inSteps = false, last }: { inSteps?: boolean; last?: Key } = {},
  ): Promise<string> {
    const changesOf = ({ changes = [] }: Outcome): Changes => new Map(changes);
    this.begun++;
    const pending = this.model.begin(text, outcomes.map(changesOf), last);
    let code = 'OK';
    let reply: unknown;
    let why = '';
    try {
      reply = await call();
    } catch (error) {
      const { code: number, details } = error as ServiceError;
      if (number === undefined) throw error;
      code = status[number] ?? String(number);
      why = details;
      // The daemon's own refusals end with the name of their class.
      const isLost = this.mayEnd && code === 'UNAVAILABLE' && !details.endsWith(': unavailable');
      if (this.killed || isLost) {
        this.unanswered++;
        throw new Interrupted(text);
      }
    }
    const outcome = outcomes.find((candidate) => candidate.code === code);
    if (outcome === undefined && this.refusals.has(code)) {
      this.refused++;
      if (inSteps) for (const key of keysOf(pending)) this.uncertain.add(key);
      else this.model.settle(pending, new Map(), code);
      return code;
    }
    if (outcome === undefined) {
      const keys = [...new Set(pending.alternatives.flatMap((changes) => [...changes.keys()]))];
      const message = `${text}: answered ${code} (${why}), expected ${outcomes.map((o) => o.code).join(' or ')}`;
      throw this.model.violationOf(keys, message);
    }
    const changes = new Map(changesOf(outcome));
    if (outcome.learn !== undefined && reply !== undefined) {
      for (const [key, data] of outcome.learn(reply as never)) changes.set(key, data);
    }
    this.answered++;
    this.model.settle(pending, changes, code);
    return code;
  }
}
