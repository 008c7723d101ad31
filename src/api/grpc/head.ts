// What the headers of a call say, read once for all calls that have the same ones.
import { firstOf, type RequestHeaders } from '../h2/headers.ts';
import { fail } from '../model/errors.ts';
import { type Namespace, parseNamespace } from '../model/ids.ts';
import type { BoundMethod } from './bind.ts';

export const namespaceHeader = 'containerd-namespace';
export const namespaceHeaderTtrpc = 'containerd-namespace-ttrpc';
export const leaseHeader = 'containerd-lease';

export class CallHead {
  readonly path: string;
  /** Undefined when no service has a method of that path. */
  readonly method: BoundMethod | undefined;
  /** The HTTP status for what is no gRPC call at all. */
  readonly refusal: number | undefined;
  /** The `grpc-timeout` header. */
  readonly timeout: string | undefined;
  /** The `grpc-encoding` header. */
  readonly encoding: string | undefined;
  /** The lease that new objects belong to, as sent. */
  readonly lease: string | undefined;
  readonly #fields: readonly string[];
  #namespace: Namespace | undefined;

  constructor(headers: RequestHeaders, methods: ReadonlyMap<string, BoundMethod>) {
    const { fields } = headers;
    this.#fields = fields;
    this.path = headers.path;
    this.method = methods.get(headers.path);
    this.refusal = refusalOf(headers);
    this.timeout = firstOf(fields, 'grpc-timeout');
    this.encoding = firstOf(fields, 'grpc-encoding');
    this.lease = firstOf(fields, leaseHeader) || undefined;
  }

  /** All values of a header, in the order they came. */
  values(name: string): readonly string[] {
    return this.#fields.filter((_value, i) => i % 2 === 1 && this.#fields[i - 1] === name);
  }

  /** Throws `failed-precondition` without a namespace, `invalid-argument` when it is not an identifier. */
  get namespace(): Namespace {
    this.#namespace ??= namespaceOf(this.#fields);
    return this.#namespace;
  }
}

/** The head of a call, from its headers or from an earlier call that had the same. */
export function headOf(headers: RequestHeaders, methods: ReadonlyMap<string, BoundMethod>): CallHead {
  headers.note ??= new CallHead(headers, methods);
  return headers.note as CallHead;
}

function namespaceOf(fields: readonly string[]): Namespace {
  const name = firstOf(fields, namespaceHeader) || firstOf(fields, namespaceHeaderTtrpc);
  if (name === undefined || name === '') throw fail('failed-precondition', 'namespace is required');
  return parseNamespace(name);
}

function refusalOf({ method, fields }: RequestHeaders): number | undefined {
  if (method !== 'POST') return 405;
  return firstOf(fields, 'content-type')?.startsWith('application/grpc') === true ? undefined : 415;
}
