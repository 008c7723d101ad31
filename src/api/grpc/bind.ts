// Turns a plain object of handlers into a gRPC service: types come from the generated definition, and every handler
// gets a context with the namespace, the lease, the deadline and the signal of its call.
import type { BinaryWriter } from '@bufbuild/protobuf/wire';
import type { CallContext } from './context.ts';

/** A response whose bytes are encoded already: what is stored goes to the wire as it is. */
export class Encoded {
  readonly bytes: Uint8Array;
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
}

/** Several responses of a stream, encoded already, that leave together. */
export class EncodedBatch {
  readonly messages: readonly Uint8Array[];
  constructor(messages: readonly Uint8Array[]) {
    this.messages = messages;
  }
}

interface Codec<T> {
  encode(message: T, writer?: BinaryWriter): BinaryWriter;
  decode(input: Uint8Array, length?: number): T;
}

// biome-ignore lint/suspicious/noExplicitAny: the message type is inferred per method
type AnyCodec = Codec<any>;

interface MethodDefinition {
  readonly name: string;
  readonly requestType: AnyCodec;
  readonly requestStream: boolean;
  readonly responseType: AnyCodec;
  readonly responseStream: boolean;
}

/** What the generator writes for a service, for example `VersionDefinition`. */
export interface ServiceDefinition {
  readonly fullName: string;
  readonly methods: Readonly<Record<string, MethodDefinition>>;
}

type MessageOf<C> = C extends { decode(input: Uint8Array): infer T } ? T : never;
export type RequestOf<M extends MethodDefinition> = MessageOf<M['requestType']>;
export type ResponseOf<M extends MethodDefinition> = MessageOf<M['responseType']> | Encoded;

/** The handler that fits a method: request and response are messages or async iterables of them. */
export type HandlerOf<M extends MethodDefinition> = (
  request: M['requestStream'] extends true ? AsyncIterable<RequestOf<M>> : RequestOf<M>,
  context: CallContext,
) => M['responseStream'] extends true
  ? AsyncIterable<ResponseOf<M> | EncodedBatch>
  : ResponseOf<M> | Promise<ResponseOf<M>>;

/** Handlers by method; a missing one answers Unimplemented. */
export type Handlers<D extends ServiceDefinition> = {
  readonly [K in keyof D['methods']]?: HandlerOf<D['methods'][K]>;
};

export type NamespaceRule = 'required' | 'none';

export interface MethodOptions {
  /** `required` (default): calls without a valid namespace header are refused. `none`: the header is not read. */
  readonly namespace?: NamespaceRule;
  /** The method may run for ever (subscriptions, waits): a draining server ends it at once with Unavailable. */
  readonly endless?: boolean;
}

export interface BindOptions<D extends ServiceDefinition> extends MethodOptions {
  /** Where a method differs from its service. */
  readonly methods?: { readonly [K in keyof D['methods']]?: MethodOptions };
}

/** One method, its types erased, as the server runs it. */
export interface BoundMethod {
  /** `/containerd.services.version.v1.Version/Version` */
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly namespace: NamespaceRule;
  readonly endless: boolean;
  readonly decode: (bytes: Uint8Array) => unknown;
  readonly encode: (response: unknown) => Buffer;
  readonly handler: ((request: unknown, context: CallContext) => unknown) | undefined;
}

export interface BoundService {
  readonly fullName: string;
  readonly methods: readonly BoundMethod[];
}

/** Binds `handlers` to a generated service definition, for `startServer`. */
export function bindService<const D extends ServiceDefinition>(
  definition: D,
  handlers: Handlers<D>,
  options: BindOptions<D> = {},
): BoundService {
  const methods = Object.entries(definition.methods).map(([key, method]): BoundMethod => {
    const own: MethodOptions | undefined = options.methods?.[key as keyof D['methods']];
    const { requestType, responseType } = method;
    const handler = handlers[key as keyof D['methods']];
    return {
      path: `/${definition.fullName}/${method.name}`,
      requestStream: method.requestStream,
      responseStream: method.responseStream,
      namespace: own?.namespace ?? options.namespace ?? 'required',
      endless: own?.endless ?? options.endless ?? false,
      decode: (bytes) => requestType.decode(bytes),
      encode: (response) => {
        if (response instanceof Encoded) return bufferOf(response.bytes);
        return bufferOf(responseType.encode(response).finish());
      },
      // Bound, so that handlers may be methods of a class.
      handler:
        handler === undefined ? undefined : (handler as NonNullable<BoundMethod['handler']>).bind(handlers),
    };
  });
  return { fullName: definition.fullName, methods };
}

export function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
