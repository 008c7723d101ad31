// What a handler knows about its call besides the request: namespace, lease, deadline, cancellation, metadata.
import type { Metadata } from '@grpc/grpc-js';
import { fail } from '../model/errors.ts';
import { type Namespace, parseNamespace } from '../model/ids.ts';
import type { NamespaceRule } from './bind.ts';

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
}

/** The first value of a header. node:http2 joins repeated headers with `, ` before anybody sees them. */
function firstValue(metadata: Metadata, name: string): string | undefined {
  const value = metadata.get(name)[0];
  if (value === undefined) return undefined;
  const text = value.toString();
  const comma = text.indexOf(', ');
  return comma < 0 ? text : text.slice(0, comma);
}

/** Throws `failed-precondition` without a namespace, `invalid-argument` when it is not an identifier. */
export function namespaceOf(metadata: Metadata): Namespace {
  const name = firstValue(metadata, namespaceHeader) || firstValue(metadata, namespaceHeaderTtrpc);
  if (name === undefined || name === '') throw fail('failed-precondition', 'namespace is required');
  return parseNamespace(name);
}

export class ServerCallContext implements CallContext {
  readonly namespace: Namespace;
  readonly metadata: Metadata;
  /** Milliseconds since the epoch, or `Infinity`. */
  readonly #deadlineAtMs: number;
  #controller: AbortController | undefined;
  #cause: Error | undefined;

  constructor(metadata: Metadata, rule: NamespaceRule, deadlineAtMs: number) {
    this.metadata = metadata;
    this.namespace = rule === 'required' ? namespaceOf(metadata) : ('' as Namespace);
    this.#deadlineAtMs = deadlineAtMs;
  }

  get lease(): string | undefined {
    return firstValue(this.metadata, leaseHeader) || undefined;
  }

  get deadlineMs(): number {
    return this.#deadlineAtMs === Number.POSITIVE_INFINITY
      ? this.#deadlineAtMs
      : Math.max(0, this.#deadlineAtMs - Date.now());
  }

  /** Made when first asked for: most calls are over before anybody wants to cancel them. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#cause !== undefined) this.#controller.abort(this.#cause);
    }
    return this.#controller.signal;
  }

  /** Undefined while the call is wanted; afterwards what ended it. */
  get cause(): Error | undefined {
    return this.#cause;
  }

  /** For the server: ends the call for its handler. Without a cause, the deadline or the client did it. */
  cancel(cause?: Error): void {
    if (this.#cause !== undefined) return;
    this.#cause =
      cause ??
      (Date.now() >= this.#deadlineAtMs
        ? fail('deadline-exceeded', 'the deadline of the call passed')
        : fail('canceled', 'the client canceled the call'));
    this.#controller?.abort(this.#cause);
  }
}
