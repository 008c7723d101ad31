// What a handler knows about its call besides the request: namespace, lease, deadline, cancellation, metadata.
import type { IncomingHttpHeaders } from 'node:http2';
import { Metadata } from '@grpc/grpc-js';
import { fail } from '../model/errors.ts';
import { type Namespace, parseNamespace } from '../model/ids.ts';
import type { Encoded, NamespaceRule } from './bind.ts';
import { type FramePool, PooledResponse } from './pool.ts';

export const namespaceHeader = 'containerd-namespace';
export const namespaceHeaderTtrpc = 'containerd-namespace-ttrpc';
export const leaseHeader = 'containerd-lease';

export interface CallContext {
  /** Empty for methods bound with namespace rule `none`. */
  readonly namespace: Namespace;
  /** The lease that the call's new objects belong to, as sent; nobody has looked it up yet. */
  readonly lease: string | undefined;
  /** Aborts when the client cancels or goes away, when the deadline passes, or when the server stops hard. */
  readonly signal: AbortSignal;
  /** Milliseconds left until the client's deadline, at the time of asking; `Infinity` without a deadline. */
  readonly deadlineMs: number;
  readonly metadata: Metadata;
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
  #metadata: Metadata | undefined;
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

  get metadata(): Metadata {
    this.#metadata ??= metadataOf(this.#headers.raw);
    return this.#metadata;
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

const transportHeaders: ReadonlySet<string> = new Set([
  'content-type',
  'te',
  'grpc-timeout',
  'grpc-encoding',
  'grpc-accept-encoding',
]);

function metadataOf(raw: readonly string[]): Metadata {
  const metadata = new Metadata();
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const [name, value] = [raw[i]!, raw[i + 1]!];
    if (name.startsWith(':') || transportHeaders.has(name)) continue;
    metadata.add(name, name.endsWith('-bin') ? Buffer.from(value, 'base64') : value);
  }
  return metadata;
}
