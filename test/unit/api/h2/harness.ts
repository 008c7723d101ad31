// A server of bare HTTP/2 streams on a socket in a temporary directory, and a client that sends and sees frames.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { TestContext } from 'node:test';
import { type ConnectionHost, H2Connection } from '../../../../src/api/h2/connection.ts';
import type { RequestHeaders } from '../../../../src/api/h2/headers.ts';
import { encodeHeaders } from '../../../../src/api/h2/hpack.ts';
import { type H2Limits, limitsDefault } from '../../../../src/api/h2/limits.ts';
import { clientPreface, flag, frameType } from '../../../../src/api/h2/protocol.ts';
import type { H2Stream } from '../../../../src/api/h2/stream.ts';
import { WriteBuffers } from '../../../../src/api/h2/writer.ts';

export const responseHead = encodeHeaders({ ':status': '200' });
export const trailers = encodeHeaders({ 'grpc-status': '0' });
export const requestBlock = encodeHeaders({ ':method': 'POST', ':scheme': 'http', ':path': '/echo' });

export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly streamId: number;
  readonly payload: Buffer;
}

export function frame(
  type: number,
  flags: number,
  streamId: number,
  payload: Uint8Array = Buffer.alloc(0),
): Buffer {
  const out = Buffer.alloc(9 + payload.length);
  out.writeUIntBE(payload.length, 0, 3);
  out[3] = type;
  out[4] = flags;
  out.writeUInt32BE(streamId, 5);
  out.set(payload, 9);
  return out;
}

export function number(...values: number[]): Buffer {
  const out = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) out.writeUInt32BE(value, 4 * i);
  return out;
}

export function setting(id: number, value: number): Buffer {
  const out = Buffer.alloc(6);
  out.writeUInt16BE(id, 0);
  out.writeUInt32BE(value, 2);
  return out;
}

export const start = Buffer.concat([Buffer.from(clientPreface), frame(frameType.settings, 0, 0)]);

export function request(streamId: number, body: Uint8Array | undefined, block = requestBlock): Buffer {
  const ending = body === undefined ? flag.endStream : 0;
  const head = frame(frameType.headers, flag.endHeaders | ending, streamId, block);
  if (body === undefined) return head;
  const parts = [head];
  for (let at = 0; at === 0 || at < body.length; at += 16_384) {
    const part = body.subarray(at, at + 16_384);
    parts.push(frame(frameType.data, at + part.length === body.length ? flag.endStream : 0, streamId, part));
  }
  return Buffer.concat(parts);
}

/** Frames as they come, kept until somebody asks for them. */
export class RawClient {
  readonly socket: net.Socket;
  readonly frames: Frame[] = [];
  ended = false;
  #rest: Buffer = Buffer.alloc(0);
  #waiters: (() => void)[] = [];

  constructor(socketPath: string) {
    this.socket = net.connect(socketPath);
    this.socket.on('error', () => {});
    this.socket.on('data', (chunk: Buffer) => this.#read(chunk));
    this.socket.on('close', () => {
      this.ended = true;
      this.#wake();
    });
  }

  send(...parts: Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  #read(chunk: Buffer): void {
    let bytes = Buffer.concat([this.#rest, chunk]);
    while (bytes.length >= 9 && bytes.length >= 9 + bytes.readUIntBE(0, 3)) {
      const end = 9 + bytes.readUIntBE(0, 3);
      const [type, flags] = [bytes[3]!, bytes[4]!];
      this.frames.push({ type, flags, streamId: bytes.readUInt32BE(5), payload: bytes.subarray(9, end) });
      bytes = bytes.subarray(end);
    }
    this.#rest = bytes;
    this.#wake();
  }

  #wake(): void {
    for (const waiter of this.#waiters.splice(0)) waiter();
  }

  /** Waits until `find` gives something for the frames so far, or the connection is closed. */
  async until<T>(find: (frames: readonly Frame[]) => T | undefined): Promise<T> {
    for (;;) {
      const found = find(this.frames);
      if (found !== undefined) return found;
      assert.ok(
        !this.ended,
        `closed before: ${JSON.stringify(this.frames.map((one) => [one.type, one.streamId]))}`,
      );
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
  }

  /** The next frame of that type; it is taken out. */
  next(type: number, streamId?: number): Promise<Frame> {
    return this.until(() => {
      const at = this.frames.findIndex(
        (one) => one.type === type && (streamId === undefined || one.streamId === streamId),
      );
      return at < 0 ? undefined : this.frames.splice(at, 1)[0];
    });
  }

  async closed(): Promise<void> {
    while (!this.ended) await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }

  /** The body of a response that ends with trailers. */
  async body(streamId: number): Promise<Buffer> {
    await this.until((frames) => frames.find((one) => one.streamId === streamId && isEnd(one)));
    const data = this.frames.filter((one) => one.type === frameType.data && one.streamId === streamId);
    return Buffer.concat(data.map((one) => one.payload));
  }
}

function isEnd({ type, flags }: Frame): boolean {
  return (type === frameType.headers || type === frameType.data) && (flags & flag.endStream) !== 0;
}

export interface Harness {
  readonly socketPath: string;
  readonly connections: Set<H2Connection>;
  readonly host: ConnectionHost & { tick: number };
  readonly unexpected: unknown[];
  connect(): RawClient;
}

export type OnStream = (stream: H2Stream, headers: RequestHeaders) => void;

/** Answers every request with its body. */
export const echo: OnStream = (stream) => {
  const parts: Buffer[] = [];
  stream.handler = {
    onData(bytes, last) {
      parts.push(bytes);
      stream.consume(bytes.length);
      if (!last) return;
      const body = Buffer.concat(parts);
      const whole = { head: responseHead, prefix: Buffer.alloc(0), body, trailers };
      if (!stream.respondWhole(whole)) {
        stream.respond(responseHead);
        stream.write(body);
        stream.end(trailers);
      }
      stream.release();
    },
    onClosed: () => stream.release(),
    onDrain() {},
    onStalled: () => stream.reset(8),
  };
};

export async function serveStreams(
  t: TestContext,
  onStream: OnStream,
  limits: Partial<H2Limits> = {},
): Promise<Harness> {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'troupe-h2-'));
  const socketPath = path.join(dir, 'h2.sock');
  const connections = new Set<H2Connection>();
  const unexpected: unknown[] = [];
  const host = {
    limits: { ...limitsDefault, ...limits },
    buffers: new WriteBuffers(),
    tick: 0,
    onStream,
    onClose: (connection: H2Connection) => void connections.delete(connection),
    onUnexpected: (error: unknown) => void unexpected.push(error),
  };
  const server = net.createServer((socket) => void connections.add(new H2Connection(socket, host)));
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  const clients: RawClient[] = [];
  t.after(async () => {
    for (const client of clients) client.socket.destroy();
    for (const connection of connections) connection.destroy();
    await new Promise((resolve) => server.close(resolve));
    fs.rmSync(dir, { recursive: true, force: true });
  });
  return {
    socketPath,
    connections,
    host,
    unexpected,
    connect() {
      const client = new RawClient(socketPath);
      clients.push(client);
      return client;
    },
  };
}
