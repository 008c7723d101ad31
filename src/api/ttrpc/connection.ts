// The server's end of one ttrpc connection: streams, their order, their limits, their errors.
import type { Socket } from 'node:net';
import { fail } from '../model/errors.ts';
import { Request, Response } from '../proto/gen/ttrpc/ttrpc.ts';
import { dataBytesMax, encodeFrame, type Frame, FrameDecoder, flag, frameType } from './frame.ts';
import { MessageQueue } from './queue.ts';
import type { CallContext, TtrpcMethod, TtrpcService } from './service.ts';
import { statusOf } from './status.ts';

/** A daemon waits for each task over the one connection to a shim that holds many. */
const callsMax = 16_384;
/** Inbound messages that one stream may hold before the connection's reading stops. */
const streamQueueLengthMax = 5;
/** A client that does not read its answers is hung up on beyond this. */
const sendQueueBytesMax = 64 * 1024 * 1024;
const timerMsMax = 2 ** 31 - 1;
const empty = new Uint8Array(0);

interface Stream {
  readonly abort: AbortController;
  /** Present when the client streams. */
  readonly queue: MessageQueue | undefined;
  timer: NodeJS.Timeout | undefined;
}

export class ServerConnection {
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #services: ReadonlyMap<string, TtrpcService>;
  readonly #streams = new Map<number, Stream>();
  readonly #full = new Set<number>();
  readonly #close: () => void;
  #lastId = 0;
  #ended = false;

  constructor(socket: Socket, services: ReadonlyMap<string, TtrpcService>) {
    this.#socket = socket;
    this.#services = services;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#close = resolve;
    const decoder = new FrameDecoder({
      frame: (frame) => this.#receive(frame),
      oversize: (header, lengthBytes) => {
        if (header.type === frameType.request && header.streamId > this.#lastId) {
          this.#lastId = header.streamId;
        }
        this.#drop(header.streamId);
        this.#refuse(
          header.streamId,
          fail(
            'resource-exhausted',
            `ttrpc: message length ${lengthBytes} exceeds maximum message size of ${dataBytesMax}`,
          ),
        );
      },
    });
    socket.on('data', (chunk: Buffer) => decoder.push(chunk));
    socket.on('error', () => this.close());
    socket.on('end', () => this.close());
    socket.on('close', () => this.close());
  }

  /** Hangs up and aborts what is in flight. */
  close(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#socket.destroy();
    for (const id of [...this.#streams.keys()]) this.#drop(id);
    this.#close();
  }

  #receive(frame: Frame): void {
    const { streamId: id, type } = frame;
    if (type !== frameType.request && type !== frameType.data) return;
    if (id % 2 === 0) {
      this.#refuse(id, fail('invalid-argument', `ttrpc: stream id ${id} of a client must be odd`));
    } else if (type === frameType.data) this.#receiveData(frame);
    else if (id <= this.#lastId) {
      this.#refuse(id, fail('invalid-argument', `ttrpc: stream id ${id} was used before`));
    } else {
      this.#lastId = id;
      this.#receiveRequest(frame);
    }
  }

  #receiveData(frame: Frame): void {
    const { streamId: id, flags } = frame;
    const queue = this.#streams.get(id)?.queue;
    if (queue === undefined || queue.ended) {
      this.#refuse(id, fail('invalid-argument', `ttrpc: stream ${id} takes no data`));
      return;
    }
    if ((flags & flag.noData) === 0) queue.push(frame.data);
    if ((flags & flag.remoteClosed) === 0) {
      if (queue.full) this.#stall(id);
      return;
    }
    queue.end();
    if ((flags & flag.noData) === 0) {
      this.#drop(id);
      this.#refuse(id, fail('invalid-argument', `ttrpc: stream ${id} was closed by a frame with a message`));
    }
  }

  #receiveRequest(frame: Frame): void {
    const id = frame.streamId;
    let request: Request;
    try {
      request = Request.decode(frame.data);
    } catch (error) {
      this.#refuse(id, fail('invalid-argument', 'ttrpc: malformed request', error));
      return;
    }
    const method = this.#services.get(request.service)?.methods.get(request.method);
    if (method === undefined) {
      this.#refuse(id, fail('unimplemented', `ttrpc: no method ${request.service}/${request.method}`));
    } else if (this.#streams.size >= callsMax) {
      this.#refuse(id, fail('resource-exhausted', `ttrpc: ${callsMax} calls are in flight already`));
    } else if (request.timeoutNano < 0n) {
      this.#refuse(id, fail('deadline-exceeded', 'context deadline exceeded'));
    } else void this.#run(id, method, request);
  }

  async #run(id: number, method: TtrpcMethod, request: Request): Promise<void> {
    const abort = new AbortController();
    const queue = method.requestStream
      ? new MessageQueue(
          streamQueueLengthMax,
          () => this.#room(id),
          () => {},
        )
      : undefined;
    const stream: Stream = { abort, queue, timer: undefined };
    this.#streams.set(id, stream);
    const deadlineMs =
      request.timeoutNano > 0n ? Number(request.timeoutNano) / 1e6 : Number.POSITIVE_INFINITY;
    if (Number.isFinite(deadlineMs)) {
      const late = () => {
        if (this.#drop(id)) this.#refuse(id, fail('deadline-exceeded', 'context deadline exceeded'));
      };
      stream.timer = setTimeout(late, Math.min(deadlineMs, timerMsMax));
    }
    const context: CallContext = { metadata: firstValues(request), signal: abort.signal, deadlineMs };
    try {
      const input = queue === undefined ? decodeOne(method, request.payload) : decodeAll(method, queue);
      if (queue !== undefined && request.payload.length > 0) queue.push(request.payload);
      const output = method.handle(input, context);
      if (method.responseStream) {
        for await (const message of output as AsyncIterable<unknown>) {
          if (!this.#alive(id, stream)) return;
          this.#send({ streamId: id, type: frameType.data, flags: 0, data: encode(method, message) });
          await this.#drained();
        }
        if (!this.#alive(id, stream)) return;
        const flags = flag.remoteClosed | flag.noData;
        this.#send({ streamId: id, type: frameType.data, flags, data: empty });
      } else {
        const message = await output;
        if (!this.#alive(id, stream)) return;
        if (message === undefined || message === null)
          throw fail('unknown', 'ttrpc: the handler gave nothing');
        const response = Response.create({ payload: encode(method, message) });
        this.#send({
          streamId: id,
          type: frameType.response,
          flags: 0,
          data: Response.encode(response).finish(),
        });
      }
      this.#drop(id);
    } catch (error) {
      if (!this.#alive(id, stream)) return;
      this.#drop(id);
      this.#refuse(id, error);
    }
  }

  #alive(id: number, stream: Stream): boolean {
    return this.#streams.get(id) === stream;
  }

  /** Forgets a stream; false when it was not there. */
  #drop(id: number): boolean {
    const stream = this.#streams.get(id);
    if (stream === undefined) return false;
    this.#streams.delete(id);
    clearTimeout(stream.timer);
    stream.queue?.end(fail('canceled', 'context canceled'));
    stream.abort.abort();
    this.#room(id);
    return true;
  }

  #refuse(id: number, error: unknown): void {
    const data = Response.encode(Response.create({ status: statusOf(error) })).finish();
    this.#send({ streamId: id, type: frameType.response, flags: 0, data });
  }

  /** Throws `resource-exhausted` when the frame is over the limit. */
  #send(frame: Frame): void {
    if (this.#ended) return;
    const bytes = encodeFrame(frame);
    if (this.#socket.writableLength > sendQueueBytesMax) this.close();
    else this.#socket.write(bytes);
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
}

function firstValues(request: Request): ReadonlyMap<string, string> {
  const values = new Map<string, string>();
  for (const { key, value } of request.metadata) {
    const name = key.toLowerCase();
    if (!values.has(name)) values.set(name, value);
  }
  return values;
}

function decodeOne(method: TtrpcMethod, payload: Uint8Array): unknown {
  try {
    return method.decode(payload);
  } catch (error) {
    throw fail('internal', `ttrpc: malformed payload of ${method.name}`, error);
  }
}

async function* decodeAll(method: TtrpcMethod, queue: MessageQueue): AsyncGenerator<unknown> {
  for await (const payload of queue) yield decodeOne(method, payload);
}

function encode(method: TtrpcMethod, message: unknown): Uint8Array {
  try {
    return method.encode(message);
  } catch (error) {
    throw fail('internal', `ttrpc: unencodable answer of ${method.name}`, error);
  }
}
