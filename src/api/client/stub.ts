// Typed stubs from generated service definitions: promises, async iterables and bidirectional calls.
import { setTimeout as sleep } from 'node:timers/promises';
import * as grpc from '@grpc/grpc-js';
import { fail } from '../model/errors.ts';
import { errorOfCall } from './errors.ts';

interface MessageType {
  encode(message: never): { finish(): Uint8Array };
  decode(input: Uint8Array): unknown;
  fromPartial(object: never): unknown;
}

interface MethodDefinition {
  readonly name: string;
  readonly requestType: MessageType;
  readonly requestStream: boolean;
  readonly responseType: MessageType;
  readonly responseStream: boolean;
}

export interface ServiceDefinition {
  readonly fullName: string;
  readonly methods: Readonly<Record<string, MethodDefinition>>;
}

type Partially<T> = T extends { fromPartial(object: infer P): unknown } ? P : never;
type Message<T> = T extends { fromPartial(object: never): infer M } ? M : never;

export interface CallOptions {
  signal?: AbortSignal | undefined;
  /** `Infinity` for none. Unary calls have 60 s unless said, streams none. */
  deadlineMs?: number | undefined;
  /** Id of the lease that keeps what the call makes. */
  lease?: string | undefined;
  /** Further request headers. */
  headers?: Readonly<Record<string, string>> | undefined;
}

export interface BidiCall<Request, Response> {
  /** Resolves when there is room for the next message. */
  send(request: Request): Promise<void>;
  /** No more requests. */
  end(): void;
  cancel(): void;
  /** Rejects with the call's error. */
  readonly responses: AsyncIterableIterator<Response>;
}

export type Stub<D extends ServiceDefinition> = {
  readonly [K in keyof D['methods']]: StubMethod<D['methods'][K]>;
};

type StubMethod<M extends MethodDefinition> = M['requestStream'] extends true
  ? (options?: CallOptions) => BidiCall<Partially<M['requestType']>, Message<M['responseType']>>
  : M['responseStream'] extends true
    ? (
        request: Partially<M['requestType']>,
        options?: CallOptions,
      ) => AsyncIterableIterator<Message<M['responseType']>>
    : (request: Partially<M['requestType']>, options?: CallOptions) => Promise<Message<M['responseType']>>;

export interface Channel {
  readonly client: grpc.Client;
  readonly namespace: string;
  /** Whether the server has ever answered. */
  reached: boolean;
}

const unaryDeadlineMs = 60_000;
const reconnectMsMax = 10_000;
const reconnectPauseMs = 50;

/** Only services whose client-streaming methods are bidirectional, as all of containerd's are. */
export function makeStub<D extends ServiceDefinition>(definition: D, channel: Channel): Stub<D> {
  const stub: Record<string, unknown> = {};
  for (const [key, method] of Object.entries(definition.methods)) {
    const path = `/${definition.fullName}/${method.name}`;
    if (method.requestStream) stub[key] = bidi(channel, method, path);
    else
      stub[key] = method.responseStream ? serverStream(channel, method, path) : unary(channel, method, path);
  }
  return stub as Stub<D>;
}

function codecs(method: MethodDefinition): [(message: unknown) => Buffer, (bytes: Buffer) => unknown] {
  return [
    (message) => {
      const bytes = method.requestType
        .encode(method.requestType.fromPartial(message as never) as never)
        .finish();
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    },
    (bytes) => method.responseType.decode(bytes),
  ];
}

function metadataOf(channel: Channel, options: CallOptions): grpc.Metadata {
  const metadata = new grpc.Metadata();
  if (channel.namespace !== '') metadata.set('containerd-namespace', channel.namespace);
  if (options.lease !== undefined) metadata.set('containerd-lease', options.lease);
  for (const [name, value] of Object.entries(options.headers ?? {})) metadata.set(name, value);
  return metadata;
}

function deadlineOf(options: CallOptions, fallbackMs: number): grpc.CallOptions {
  const ms = options.deadlineMs ?? fallbackMs;
  return ms === Number.POSITIVE_INFINITY ? {} : { deadline: Date.now() + ms };
}

function unary(channel: Channel, method: MethodDefinition, path: string) {
  const [serialize, deserialize] = codecs(method);

  const attempt = (request: unknown, options: CallOptions, timing: grpc.CallOptions): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const { signal } = options;
      if (signal?.aborted) {
        reject(fail('canceled', `${path}: canceled`, signal.reason));
        return;
      }
      const cancel = (): void => call.cancel();
      const call = channel.client.makeUnaryRequest(
        path,
        serialize,
        deserialize,
        request,
        metadataOf(channel, options),
        timing,
        (error, response) => {
          signal?.removeEventListener('abort', cancel);
          if (error !== null) reject(error);
          else resolve(response);
        },
      );
      signal?.addEventListener('abort', cancel, { once: true });
    });

  return async (request: unknown, options: CallOptions = {}): Promise<unknown> => {
    const timing = deadlineOf(options, unaryDeadlineMs);
    const giveUpMs = Math.min(
      Number(timing.deadline ?? Number.POSITIVE_INFINITY),
      Date.now() + reconnectMsMax,
    );
    for (;;) {
      try {
        const response = await attempt(request, options, timing);
        channel.reached = true;
        return response;
      } catch (error) {
        // A server that has been there is restarting: a call that never left may be made again.
        if (!channel.reached || !neverSent(error) || Date.now() >= giveUpMs) throw errorOfCall(error, path);
        await sleep(
          reconnectPauseMs,
          undefined,
          options.signal === undefined ? {} : { signal: options.signal },
        );
      }
    }
  };
}

/** grpc-js fails a call so when it has found nobody to send it to. */
function neverSent(error: unknown): boolean {
  const { code, details } = error as { code?: unknown; details?: unknown };
  return code === grpc.status.UNAVAILABLE && String(details).startsWith('No connection established');
}

function serverStream(channel: Channel, method: MethodDefinition, path: string) {
  const [serialize, deserialize] = codecs(method);
  return (request: unknown, options: CallOptions = {}): AsyncIterableIterator<unknown> => {
    const call = channel.client.makeServerStreamRequest(
      path,
      serialize,
      deserialize,
      request,
      metadataOf(channel, options),
      deadlineOf(options, Number.POSITIVE_INFINITY),
    );
    return drain(call, path, options.signal);
  };
}

function bidi(channel: Channel, method: MethodDefinition, path: string) {
  const [serialize, deserialize] = codecs(method);
  return (options: CallOptions = {}): BidiCall<unknown, unknown> => {
    const call = channel.client.makeBidiStreamRequest(
      path,
      serialize,
      deserialize,
      metadataOf(channel, options),
      deadlineOf(options, Number.POSITIVE_INFINITY),
    );
    return {
      responses: drain(call, path, options.signal),
      async send(request) {
        if (!call.writable || call.destroyed) throw fail('canceled', `${path}: the call has ended`);
        if (!call.write(request)) await roomIn(call);
      },
      end: () => void call.end(),
      cancel: () => call.cancel(),
    };
  };
}

/** Waits until more can be written. The error of a failed call is told by `responses`; here it only ends the wait. */
function roomIn(call: grpc.ClientDuplexStream<unknown, unknown>): Promise<void> {
  return new Promise((resolve) => {
    const names = ['drain', 'error', 'close', 'end'] as const;
    const done = (): void => {
      for (const name of names) call.off(name, done);
      resolve();
    };
    for (const name of names) call.on(name, done);
  });
}

/** Reads a call's messages; leaving early cancels the call. */
function drain(
  call: grpc.ClientReadableStream<unknown> | grpc.ClientDuplexStream<unknown, unknown>,
  path: string,
  signal: AbortSignal | undefined,
): AsyncIterableIterator<unknown> {
  // The reader gets the error; a call that nobody reads any more must not crash the process with it.
  call.on('error', () => {});
  const cancel = (): void => call.cancel();
  if (signal?.aborted) cancel();
  signal?.addEventListener('abort', cancel, { once: true });
  call.once('close', () => signal?.removeEventListener('abort', cancel));
  return (async function* () {
    try {
      for await (const message of call) yield message;
    } catch (error) {
      throw errorOfCall(error, path);
    } finally {
      signal?.removeEventListener('abort', cancel);
      call.cancel();
    }
  })();
}
