// A ttrpc client: many calls and streams over one connection, each with its own deadline; when the connection
// ends, all of them fail with "ttrpc: closed".
import type { Socket } from 'node:net';
import { fail, type TroupeError } from '../model/errors.ts';
import { connectionClosedMessage } from '../model/ports/shim.ts';
import { Request, Response } from '../proto/gen/ttrpc/ttrpc.ts';
import { type DialOptions, dial } from './address.ts';
import { dataBytesMax, encodeFrame, type Frame, FrameDecoder, flag, frameType } from './frame.ts';
import { MessageQueue } from './queue.ts';
import { errorOf } from './status.ts';

export interface CallOptions {
  /** Sent along and held here; `Infinity` (the default) waits for ever. */
  deadlineMs?: number;
  /** Aborting makes this side stop waiting; ttrpc has no word for telling the peer. */
  signal?: AbortSignal;
  /** Keys in lower case. */
  metadata?: Iterable<readonly [key: string, value: string]>;
}

/** `server`: one request, many answers; `client` and `both`: many requests. */
export type StreamKind = 'server' | 'client' | 'both';

export interface ClientStream extends AsyncIterableIterator<Uint8Array> {
  /** Resolves when the connection takes more. */
  send(payload: Uint8Array): Promise<void>;
  closeSend(): void;
}

interface Pending {
  response(payload: Uint8Array): void;
  data(frame: Frame): void;
  fail(error: TroupeError): void;
}

const streamIdMax = 0xffff_ffff;
const callsMax = 65_536;
const sendQueueBytesMax = 64 * 1024 * 1024;
/** Messages that one stream may hold before the connection's reading stops. */
const streamQueueLengthMax = 64;
const timerMsMax = 2 ** 31 - 1;

export class TtrpcClient {
  /** Resolves once, when the connection has ended for whatever reason. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #close: () => void;
  readonly #full = new Set<number>();
  #nextId = 1;
  #ended = false;

  /** Takes over a connected socket. */
  constructor(socket: Socket) {
    this.#socket = socket;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#close = resolve;
    const decoder = new FrameDecoder({
      frame: (frame) => this.#receive(frame),
      oversize: (header, lengthBytes) => {
        this.#pending
          .get(header.streamId)
          ?.fail(
            fail(
              'resource-exhausted',
              `ttrpc: message length ${lengthBytes} exceeds maximum message size of ${dataBytesMax}`,
            ),
          );
      },
    });
    socket.on('data', (chunk: Buffer) => decoder.push(chunk));
    socket.on('error', () => this.#end());
    socket.on('end', () => this.#end());
    socket.on('close', () => this.#end());
    if (socket.destroyed) this.#end();
  }

  static async connect(address: string, options: DialOptions): Promise<TtrpcClient> {
    return new TtrpcClient(await dial(address, options));
  }

  get ended(): boolean {
    return this.#ended;
  }

  close(): void {
    this.#end();
  }

  /** One request, one answer: encoded messages. Rejects with the class that the peer gave. */
  call(service: string, method: string, payload: Uint8Array, options: CallOptions = {}): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const scope = this.#scope(`${service}/${method}`, options, (error) => pending.fail(error));
      const settle = (action: () => void) => {
        this.#pending.delete(id);
        scope.end();
        action();
      };
      const pending: Pending = {
        response: (answer) => settle(() => resolve(answer)),
        data: () => pending.fail(fail('internal', `ttrpc: ${method} answered with a stream`)),
        fail: (error) => settle(() => reject(error)),
      };
      let id = 0;
      try {
        scope.begin();
        id = this.#open(service, method, payload, 0, options, pending);
      } catch (error) {
        scope.end();
        reject(error);
      }
    });
  }

  /** Opens a stream; `payload` is the request of a `server` stream and empty for the others. */
  stream(
    service: string,
    method: string,
    kind: StreamKind,
    payload: Uint8Array,
    options: CallOptions = {},
  ): ClientStream {
    const scope = this.#scope(`${service}/${method}`, options, (error) => pending.fail(error));
    let id = 0;
    let sending = kind !== 'server';
    const forget = () => {
      this.#pending.delete(id);
      this.#room(id);
      scope.end();
      sending = false;
    };
    const queue = new MessageQueue(streamQueueLengthMax, () => this.#room(id), forget);
    const pending: Pending = {
      response: (answer) => {
        if (kind === 'client') queue.push(answer);
        queue.end();
        forget();
      },
      data: (frame) => {
        if ((frame.flags & flag.noData) === 0) queue.push(frame.data);
        if ((frame.flags & flag.remoteClosed) !== 0) {
          queue.end();
          forget();
        } else if (queue.full) this.#stall(id);
      },
      fail: (error) => {
        queue.end(error);
        forget();
      },
    };
    scope.begin();
    try {
      const flags = kind === 'server' ? flag.remoteClosed : flag.remoteOpen;
      id = this.#open(service, method, payload, flags, options, pending);
    } catch (error) {
      scope.end();
      throw error;
    }
    const data = (flags: number, message: Uint8Array) =>
      this.#write({ streamId: id, type: frameType.data, flags, data: message });
    return Object.assign(queue, {
      send: async (message: Uint8Array) => {
        if (!sending) throw fail('failed-precondition', `ttrpc: stream ${method} is closed for sending`);
        data(0, message);
        await this.#drained();
      },
      closeSend: () => {
        if (!sending) return;
        sending = false;
        data(flag.remoteClosed | flag.noData, new Uint8Array(0));
      },
    });
  }

  /** Writes the Request frame; the id is allotted and written in one go, so that ids rise on the wire. */
  #open(
    service: string,
    method: string,
    payload: Uint8Array,
    flags: number,
    options: CallOptions,
    pending: Pending,
  ): number {
    if (this.#ended) throw connectionClosed();
    if (this.#pending.size >= callsMax) {
      throw fail('resource-exhausted', `ttrpc: ${callsMax} calls are in flight already`);
    }
    if (this.#nextId > streamIdMax) throw fail('resource-exhausted', 'ttrpc: stream ids are used up');
    const { deadlineMs = Number.POSITIVE_INFINITY, metadata } = options;
    const request = Request.create({
      service,
      method,
      payload,
      timeoutNano: Number.isFinite(deadlineMs) ? BigInt(Math.ceil(deadlineMs * 1e6)) : 0n,
      metadata: metadata === undefined ? [] : Array.from(metadata, ([key, value]) => ({ key, value })),
    });
    const id = this.#nextId;
    const data = Request.encode(request).finish();
    this.#write({ streamId: id, type: frameType.request, flags, data });
    this.#nextId += 2;
    this.#pending.set(id, pending);
    return id;
  }

  #scope(name: string, options: CallOptions, give: (error: TroupeError) => void) {
    const { deadlineMs = Number.POSITIVE_INFINITY, signal } = options;
    let timer: NodeJS.Timeout | undefined;
    const late = () => fail('deadline-exceeded', `${name}: context deadline exceeded`);
    const canceled = () => fail('canceled', `${name}: context canceled`);
    const onAbort = () => give(canceled());
    return {
      begin() {
        if (signal?.aborted) throw canceled();
        if (deadlineMs <= 0) throw late();
        signal?.addEventListener('abort', onAbort, { once: true });
        if (Number.isFinite(deadlineMs)) {
          timer = setTimeout(() => give(late()), Math.min(deadlineMs, timerMsMax));
        }
      },
      end() {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      },
    };
  }

  #receive(frame: Frame): void {
    const pending = this.#pending.get(frame.streamId);
    if (pending === undefined) return;
    if (frame.type === frameType.data) pending.data(frame);
    if (frame.type !== frameType.response) return;
    try {
      const { status, payload } = Response.decode(frame.data);
      if (status !== undefined && status.code !== 0) pending.fail(errorOf(status));
      else pending.response(payload);
    } catch (error) {
      pending.fail(fail('internal', 'ttrpc: malformed response', error));
    }
  }

  #write(frame: Frame): void {
    if (this.#ended) throw connectionClosed();
    if (this.#socket.writableLength > sendQueueBytesMax) {
      throw fail('resource-exhausted', `ttrpc: ${sendQueueBytesMax} bytes wait to be sent already`);
    }
    this.#socket.write(encodeFrame(frame));
  }

  #drained(): Promise<void> {
    if (!this.#socket.writableNeedDrain || this.#ended) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        this.#socket.off('drain', done);
        this.#socket.off('close', done);
        resolve();
      };
      this.#socket.on('drain', done);
      this.#socket.on('close', done);
    });
  }

  #stall(id: number): void {
    this.#full.add(id);
    this.#socket.pause();
  }

  #room(id: number): void {
    if (this.#full.delete(id) && this.#full.size === 0) this.#socket.resume();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#socket.destroy();
    for (const pending of [...this.#pending.values()]) pending.fail(connectionClosed());
    this.#close();
  }
}

function connectionClosed(): TroupeError {
  return fail('unknown', connectionClosedMessage);
}
