// What a handler knows about its call besides the request: namespace, lease, deadline, cancellation, metadata.
import type { IncomingHttpHeaders } from 'node:http2';
import { fail } from '../model/errors.ts';
import { type Namespace, parseNamespace } from '../model/ids.ts';
import type { Encoded, NamespaceRule } from './bind.ts';
import { type FramePool, PooledResponse } from './pool.ts';

export const namespaceHeader = 'containerd-namespace';
export const namespaceHeaderTtrpc = 'containerd-namespace-ttrpc';
export const leaseHeader = 'containerd-lease';

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

/** The headers of a request, repeated ones kept apart. */
export interface RequestHeaders {
  readonly joined: IncomingHttpHeaders;
  /** Names and values in turn, as they came. */
  readonly raw: readonly string[];
}

/** The first value of a header, which is the one that counts; node:http2 joins repeated ones with `, `. */
function firstValue({ joined, raw }: RequestHeaders, name: string): string | undefined {
  const value = joined[name];
  if (typeof value !== 'string' || !value.includes(', ')) return value as string | undefined;
  for (let i = 0; i < raw.length; i += 2) if (raw[i] === name) return raw[i + 1];
  return value;
}

/** Throws `failed-precondition` without a namespace, `invalid-argument` when it is not an identifier. */
function namespaceOf(headers: RequestHeaders): Namespace {
  const name = firstValue(headers, namespaceHeader) || firstValue(headers, namespaceHeaderTtrpc);
  if (name === undefined || name === '') throw fail('failed-precondition', 'namespace is required');
  return parseNamespace(name);
}

export class ServerCallContext implements CallContext {
  readonly namespace: Namespace;
  readonly #headers: RequestHeaders;
  /** Milliseconds since the epoch, or `Infinity`. */
  readonly #deadlineAtMs: number;
  readonly #pool: FramePool;
  #controller: AbortController | undefined;
  #cause: Error | undefined;

  constructor(headers: RequestHeaders, rule: NamespaceRule, deadlineAtMs: number, pool: FramePool) {
    this.#headers = headers;
    this.#pool = pool;
    this.namespace = rule === 'required' ? namespaceOf(headers) : ('' as Namespace);
    this.#deadlineAtMs = deadlineAtMs;
  }

  get lease(): string | undefined {
    return firstValue(this.#headers, leaseHeader) || undefined;
  }

  get deadlineMs(): number {
    return this.#deadlineAtMs === Number.POSITIVE_INFINITY
      ? this.#deadlineAtMs
      : Math.max(0, this.#deadlineAtMs - Date.now());
  }

  get metadata(): CallMetadata {
    const { raw } = this.#headers;
    return { get: (name) => raw.filter((_value, i) => i % 2 === 1 && raw[i - 1] === name) };
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
