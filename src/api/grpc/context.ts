// What a handler knows about its call besides the request: namespace, lease, deadline, cancellation, metadata.
import type { Namespace } from '../model/ids.ts';
import type { Encoded, NamespaceRule } from './bind.ts';
import type { CallHead } from './head.ts';
import { type FramePool, PooledResponse } from './pool.ts';

export { leaseHeader, namespaceHeader, namespaceHeaderTtrpc } from './head.ts';

export interface CallMetadata {
  /** All values of a header, in lower case, in the order they came; none when it is missing. */
  get(name: string): readonly string[];
}

export interface CallContext {
  /** Empty for methods bound with namespace rule `none`. */
  readonly namespace: Namespace;
  /** The lease that the call's new objects belong to, as sent; nobody has looked it up yet. */
  readonly lease: string | undefined;
  /** Aborts when the client cancels or goes away, when the deadline passes, or when the server stops hard. */
  readonly signal: AbortSignal;
  /** Milliseconds left until the client's deadline, at the time of asking; `Infinity` without a deadline. */
  readonly deadlineMs: number;
  readonly metadata: CallMetadata;
  /**
   * A response of `messageBytes` encoded bytes for the handler to fill and to answer with once; for large ones, since
   * its buffer is used again and nothing is copied. After it was handed over it must not be touched.
   */
  allocate(messageBytes: number): Encoded;
}

export class ServerCallContext implements CallContext {
  readonly namespace: Namespace;
  readonly #head: CallHead;
  /** Milliseconds since the epoch, or `Infinity`. */
  readonly #deadlineAtMs: number;
  readonly #pool: FramePool;
  #controller: AbortController | undefined;
  #cause: Error | undefined;

  constructor(head: CallHead, rule: NamespaceRule, deadlineAtMs: number, pool: FramePool) {
    this.#head = head;
    this.#pool = pool;
    this.namespace = rule === 'required' ? head.namespace : ('' as Namespace);
    this.#deadlineAtMs = deadlineAtMs;
  }

  get lease(): string | undefined {
    return this.#head.lease;
  }

  get deadlineMs(): number {
    return this.#deadlineAtMs === Number.POSITIVE_INFINITY
      ? this.#deadlineAtMs
      : Math.max(0, this.#deadlineAtMs - Date.now());
  }

  get metadata(): CallMetadata {
    const head = this.#head;
    return { get: (name) => head.values(name) };
  }

  /** Made when first asked for: most calls are over before anybody wants to cancel them. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#cause !== undefined) this.#controller.abort(this.#cause);
    }
    return this.#controller.signal;
  }

  allocate(messageBytes: number): Encoded {
    return new PooledResponse(this.#pool, messageBytes);
  }

  /** Undefined while the call is wanted; afterwards what ended it. */
  get cause(): Error | undefined {
    return this.#cause;
  }

  /** For the server: ends the call for its handler. */
  cancel(cause: Error): void {
    if (this.#cause !== undefined) return;
    this.#cause = cause;
    this.#controller?.abort(cause);
  }
}
