// How a ttrpc service is written: a generated definition and a plain object of handlers.
import type { BinaryWriter } from '@bufbuild/protobuf/wire';

export interface MessageCodec<T> {
  encode(message: T, writer?: BinaryWriter): BinaryWriter;
  decode(input: Uint8Array): T;
}

/** A codec of some message. */
interface SomeCodec {
  encode(message: never, writer?: BinaryWriter): BinaryWriter;
  decode(input: Uint8Array): unknown;
}

export interface MethodDefinition {
  readonly name: string;
  readonly requestType: SomeCodec;
  readonly requestStream: boolean;
  readonly responseType: SomeCodec;
  readonly responseStream: boolean;
}

export interface ServiceDefinition {
  readonly fullName: string;
  readonly methods: Readonly<Record<string, MethodDefinition>>;
}

export interface CallContext {
  /** Keys in lower case; of repeated keys the first value. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Aborts when the client is gone or the deadline has passed. */
  readonly signal: AbortSignal;
  /** What the client allows from now; `Infinity` when it did not say. */
  readonly deadlineMs: number;
}

type MessageOf<Codec> = Codec extends { decode(input: Uint8Array): infer T } ? T : never;

type RequestOf<M extends MethodDefinition> = M['requestStream'] extends true
  ? AsyncIterable<MessageOf<M['requestType']>>
  : MessageOf<M['requestType']>;

type ResponseOf<M extends MethodDefinition> = M['responseStream'] extends true
  ? AsyncIterable<MessageOf<M['responseType']>>
  : MessageOf<M['responseType']> | Promise<MessageOf<M['responseType']>>;

/** Handlers may be left out: their methods answer `unimplemented`. */
export type Handlers<D extends ServiceDefinition> = {
  readonly [K in keyof D['methods']]?: (
    request: RequestOf<D['methods'][K]>,
    context: CallContext,
  ) => ResponseOf<D['methods'][K]>;
};

export interface TtrpcMethod {
  readonly name: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  decode(payload: Uint8Array): unknown;
  encode(message: unknown): Uint8Array;
  handle(request: unknown, context: CallContext): unknown;
}

export interface TtrpcService {
  readonly name: string;
  /** By bare method name, as on the wire. */
  readonly methods: ReadonlyMap<string, TtrpcMethod>;
}

export function ttrpcService<const D extends ServiceDefinition>(
  definition: D,
  handlers: Handlers<D>,
): TtrpcService {
  const methods = new Map<string, TtrpcMethod>();
  for (const [key, method] of Object.entries(definition.methods)) {
    const handle = handlers[key as keyof D['methods']] as TtrpcMethod['handle'] | undefined;
    if (handle === undefined) continue;
    methods.set(method.name, {
      name: method.name,
      requestStream: method.requestStream,
      responseStream: method.responseStream,
      decode: (payload) => method.requestType.decode(payload),
      encode: (message) => method.responseType.encode(message as never).finish(),
      handle,
    });
  }
  return { name: definition.fullName, methods };
}
