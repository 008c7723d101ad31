// The least HTTP/2 that a gRPC load generator needs (RFC 9113): one connection, fixed headers, answers only counted.
import { connect, type Socket } from 'node:net';

const frameHeaderBytes = 9;
const type = { data: 0, headers: 1, reset: 3, settings: 4, ping: 6, goaway: 7, windowUpdate: 8 } as const;
const flag = { endStream: 0x1, ack: 0x1, endHeaders: 0x4 } as const;
const windowBytesMax = 2 ** 31 - 1;
const grpcPrefixBytes = 5;
const nothing: Buffer = Buffer.alloc(0);
/** Received bytes after which the connection's window is opened again. */
const windowStepBytes = 2 ** 28;

interface Stream {
  done(error: string | undefined): void;
  /** Hears of the messages of a stream that stays open. */
  readonly onMessages: ((count: number) => void) | undefined;
  dataBytes: number;
  counter: MessageCounter | undefined;
}

/** Counts gRPC messages in a body, wherever it is cut. */
class MessageCounter {
  #prefix = 0;
  #prefixBytes = 0;
  #bytesLeft = 0;

  /** How many messages these bytes complete. */
  push(bytes: Buffer, start: number, end: number): number {
    let count = 0;
    for (let at = start; at < end; ) {
      if (this.#bytesLeft > 0) {
        const length = Math.min(this.#bytesLeft, end - at);
        this.#bytesLeft -= length;
        at += length;
        if (this.#bytesLeft === 0) count++;
        continue;
      }
      // The first byte is the flag; the length follows, its high byte first.
      if (this.#prefixBytes > 0) this.#prefix = this.#prefix * 256 + bytes[at]!;
      this.#prefixBytes++;
      at++;
      if (this.#prefixBytes < grpcPrefixBytes) continue;
      this.#bytesLeft = this.#prefix;
      if (this.#prefix === 0) count++;
      this.#prefix = 0;
      this.#prefixBytes = 0;
    }
    return count;
  }
}

/**
 * Keeps unary calls of one method in flight. A gRPC answer with a message is a success and one without is an error
 * (a unary call that fails sends trailers only), so that no header has to be decoded.
 */
export class LoadConnection {
  readonly #socket: Socket;
  readonly #headers: Readonly<Record<string, string>>;
  /** Header blocks by path. */
  readonly #blocks = new Map<string, Buffer>();
  readonly #streams = new Map<number, Stream>();
  readonly #out: Buffer[] = [];
  /** Requests that wait for the peer's connection window. */
  readonly #blocked: { block: Buffer; request: Buffer; stream: Stream }[] = [];
  #flushing = false;
  #nextId = 1;
  #sendWindowBytes = 65_535;
  #receivedBytes = 0;
  #rest: Buffer = nothing;
  /** Of the DATA frame that is being read; its stream, and whether it ends that. */
  #dataBytesLeft = 0;
  #dataId = 0;
  #dataEnds = false;
  #failed: string | undefined;

  constructor(socketPath: string, headers: Readonly<Record<string, string>>) {
    this.#headers = headers;
    this.#socket = connect(socketPath);
    this.#socket.on('data', (chunk: Buffer) => this.#read(chunk));
    this.#socket.on('error', (error) => this.#fail(error.message));
    this.#socket.on('close', () => this.#fail('the connection has closed'));
    const settings = Buffer.alloc(18);
    // Header table 0, push off, stream window as large as it can be (RFC 9113, 6.5.2).
    for (const [index, [id, value]] of [
      [1, 0] as const,
      [2, 0] as const,
      [4, windowBytesMax] as const,
    ].entries()) {
      settings.writeUInt16BE(id, index * 6);
      settings.writeUInt32BE(value, index * 6 + 2);
    }
    this.#send(Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'));
    this.#send(frame(type.settings, 0, 0, settings));
    this.#openWindow(windowBytesMax - 65_535);
  }

  /** Sends a message and resolves with undefined once it is answered, or with what went wrong. */
  call(path: string, message: Uint8Array): Promise<string | undefined> {
    return new Promise((resolve) => this.#open(path, message, resolve, undefined));
  }

  /** Opens a stream of answers; `onMessages` hears how many came, `onEnd` when no more will. */
  follow(
    path: string,
    message: Uint8Array,
    onMessages: (count: number) => void,
    onEnd: (error: string | undefined) => void,
  ): void {
    this.#open(path, message, onEnd, onMessages);
  }

  #open(
    path: string,
    message: Uint8Array,
    done: (error: string | undefined) => void,
    onMessages: ((count: number) => void) | undefined,
  ): void {
    if (this.#failed !== undefined) {
      done(this.#failed);
      return;
    }
    let block = this.#blocks.get(path);
    if (block === undefined) {
      block = headerBlock(path, this.#headers);
      this.#blocks.set(path, block);
    }
    const request = Buffer.alloc(grpcPrefixBytes + message.length);
    request.writeUInt32BE(message.length, 1);
    request.set(message, grpcPrefixBytes);
    const counter = onMessages === undefined ? undefined : new MessageCounter();
    this.#blocked.push({ block, request, stream: { done, onMessages, dataBytes: 0, counter } });
    this.#sendBlocked();
  }

  close(): void {
    this.#failed ??= 'closed';
    this.#socket.destroy();
  }

  #sendBlocked(): void {
    for (let next = this.#blocked[0]; next !== undefined; next = this.#blocked[0]) {
      if (next.request.length > this.#sendWindowBytes) return;
      this.#blocked.shift();
      this.#sendWindowBytes -= next.request.length;
      const id = this.#nextId;
      this.#nextId += 2;
      this.#streams.set(id, next.stream);
      this.#send(frame(type.headers, flag.endHeaders, id, next.block));
      this.#send(frame(type.data, flag.endStream, id, next.request));
    }
  }

  /** One write for all that a turn of the event loop has to say. */
  #send(bytes: Buffer): void {
    this.#out.push(bytes);
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      this.#socket.write(Buffer.concat(this.#out));
      this.#out.length = 0;
    });
  }

  #openWindow(bytes: number): void {
    const payload = Buffer.alloc(4);
    payload.writeUInt32BE(bytes);
    this.#send(frame(type.windowUpdate, 0, 0, payload));
  }

  /** Bodies are only counted, piece by piece: a client that copied them would be what is measured. */
  #read(chunk: Buffer): void {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#rest = nothing;
    let at = 0;
    while (at < bytes.length) {
      if (this.#dataBytesLeft > 0) {
        const length = Math.min(this.#dataBytesLeft, bytes.length - at);
        const { counter, onMessages } = this.#streams.get(this.#dataId) ?? {};
        if (counter !== undefined) onMessages?.(counter.push(bytes, at, at + length));
        this.#dataBytesLeft -= length;
        at += length;
        if (this.#dataBytesLeft === 0) this.#endData();
        continue;
      }
      if (bytes.length - at < frameHeaderBytes) break;
      const length = bytes.readUIntBE(at, 3);
      const start = at + frameHeaderBytes;
      if (bytes[at + 3] === type.data) {
        this.#startData(bytes[at + 4]!, bytes.readUInt32BE(at + 5), length);
        at = start;
        continue;
      }
      if (bytes.length - start < length) break;
      at = start + length;
      this.#receive(
        bytes[start - 6]!,
        bytes[start - 5]!,
        bytes.readUInt32BE(start - 4),
        bytes.subarray(start, at),
      );
    }
    if (at < bytes.length) this.#rest = bytes.subarray(at);
  }

  #startData(flags: number, id: number, length: number): void {
    this.#receivedBytes += length;
    if (this.#receivedBytes >= windowStepBytes) {
      this.#openWindow(this.#receivedBytes);
      this.#receivedBytes = 0;
    }
    const stream = this.#streams.get(id);
    if (stream !== undefined) stream.dataBytes += length;
    this.#dataBytesLeft = length;
    this.#dataId = id;
    this.#dataEnds = (flags & flag.endStream) !== 0;
    if (length === 0) this.#endData();
  }

  #endData(): void {
    if (this.#dataEnds) this.#answered(this.#dataId);
  }

  #receive(kind: number, flags: number, id: number, payload: Buffer): void {
    switch (kind) {
      case type.headers:
        if ((flags & flag.endStream) !== 0) this.#answered(id);
        return;
      case type.settings:
        if ((flags & flag.ack) === 0) this.#send(frame(type.settings, flag.ack, 0, Buffer.alloc(0)));
        return;
      case type.ping:
        if ((flags & flag.ack) === 0) this.#send(frame(type.ping, flag.ack, 0, Buffer.from(payload)));
        return;
      case type.windowUpdate:
        if (id === 0) {
          this.#sendWindowBytes += payload.readUInt32BE(0);
          this.#sendBlocked();
        }
        return;
      case type.reset:
        this.#end(id, `reset with ${payload.readUInt32BE(0)}`);
        return;
      case type.goaway:
        this.#fail(`the server goes away: ${payload.subarray(8).toString()}`);
        return;
    }
  }

  #answered(id: number): void {
    const dataBytes = this.#streams.get(id)?.dataBytes ?? 0;
    this.#end(id, dataBytes >= grpcPrefixBytes ? undefined : 'an answer without a message');
  }

  #end(id: number, error: string | undefined): void {
    const stream = this.#streams.get(id);
    this.#streams.delete(id);
    stream?.done(error);
  }

  #fail(error: string): void {
    this.#failed ??= error;
    for (const { stream } of this.#blocked.splice(0)) stream.done(this.#failed);
    for (const id of [...this.#streams.keys()]) this.#end(id, this.#failed);
  }
}

function frame(kind: number, flags: number, id: number, payload: Buffer): Buffer {
  const out = Buffer.alloc(frameHeaderBytes + payload.length);
  out.writeUIntBE(payload.length, 0, 3);
  out[3] = kind;
  out[4] = flags;
  out.writeUInt32BE(id, 5);
  out.set(payload, frameHeaderBytes);
  return out;
}

/** HPACK without compression (RFC 7541, 6.2.2): the same bytes for every request. */
function headerBlock(path: string, headers: Readonly<Record<string, string>>): Buffer {
  const text = (value: string): Buffer => {
    if (value.length > 126) throw new Error(`a header of ${value.length} bytes needs a longer length`);
    return Buffer.from(String.fromCharCode(value.length) + value, 'latin1');
  };
  // Indexed: ":method: POST" is 3 and ":scheme: http" is 6 in the static table; ":path" is 4, ":authority" is 1.
  const parts = [Buffer.of(0x83, 0x86, 0x04), text(path), Buffer.of(0x01), text('localhost')];
  for (const [name, value] of Object.entries(headers)) parts.push(Buffer.of(0x00), text(name), text(value));
  return Buffer.concat(parts);
}
