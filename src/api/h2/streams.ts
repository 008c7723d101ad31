// The streams of a connection with its windows, both ways: who may send how much, whose turn it is, and how much of
// what was received is dealt with.
import type { Socket } from 'node:net';
import type { Budget } from './budget.ts';
import { noTableUpdate } from './hpack.ts';
import type { H2Limits } from './limits.ts';
import { errorCode, frameType, windowBytesDefault, windowBytesMax } from './protocol.ts';
import { type PeerSettings, peerSettingsDefault } from './settings.ts';
import { H2Stream, type StreamHost, type WholeResponse } from './stream.ts';
import { FrameWriter, type OnSent, type WriteBuffers } from './writer.ts';

/** What one stream may send before others have their turn. */
const turnBytes = 128 * 1024;
/** Control frames that a DATA frame may bring: the peer's updates of two windows. */
const updatesPerData = 2;
/** Streams that were reset from here are remembered, since what was on its way then is no fault. */
const resetIdsMax = 1024;

export class Streams implements StreamHost {
  readonly writer: FrameWriter;
  readonly #limits: H2Limits;
  readonly #backlogBytesMax: number;
  readonly #control: Budget;
  readonly #onFinished: () => void;
  readonly #open = new Map<number, H2Stream>();
  readonly #resetIds = new Set<number>();
  /** Streams that have something to send and a window for it, in the order of their turns. */
  #queue: H2Stream[] = [];
  #pumping = false;
  #parked: { readonly stream: H2Stream; readonly start: () => void }[] = [];
  #peer: PeerSettings = peerSettingsDefault;
  #tableUpdateDue = false;
  #sendWindowBytes = windowBytesDefault;
  #receiveWindowBytes: number;
  #consumedBytes = 0;
  #unsentBytes = 0;
  #heldCount = 0;

  constructor(
    socket: Socket,
    limits: H2Limits,
    buffers: WriteBuffers,
    control: Budget,
    onFinished: () => void,
  ) {
    this.writer = new FrameWriter(socket, buffers);
    this.#limits = limits;
    // A socket tells when it has room again only if it was above its mark.
    this.#backlogBytesMax = Math.max(limits.backlogBytesMax, socket.writableHighWaterMark);
    this.#control = control;
    this.#onFinished = onFinished;
    this.#receiveWindowBytes = limits.connectionWindowBytes;
  }

  /** The client does not read what it asked for. */
  get backlogged(): boolean {
    return this.writer.backlogBytes > this.#backlogBytesMax;
  }

  get size(): number {
    return this.#open.size;
  }

  /** Streams that are open, and those whose handlers have not returned yet. */
  get heldCount(): number {
    return this.#heldCount;
  }

  get(id: number): H2Stream | undefined {
    return this.#open.get(id);
  }

  all(): H2Stream[] {
    return [...this.#open.values()];
  }

  open(id: number, tick: number): H2Stream {
    const stream = new H2Stream(
      this,
      id,
      this.#peer.initialWindowBytes,
      this.#limits.streamWindowBytes,
      tick,
    );
    this.#open.set(id, stream);
    this.#heldCount++;
    return stream;
  }

  release(): void {
    this.#heldCount--;
  }

  /** The client is gone, or is not listened to any more. */
  closeAll(): void {
    this.#parked = [];
    this.#queue = [];
    for (const stream of this.all()) this.closedByPeer(stream);
  }

  closedByPeer(stream: H2Stream): void {
    this.#remove(stream);
    stream.handler?.onClosed();
    this.#unpark();
  }

  /** Ends a stream that is not open, or never was. */
  resetId(id: number, code: number): void {
    if (this.#resetIds.size >= resetIdsMax) {
      for (const oldest of this.#resetIds) {
        this.#resetIds.delete(oldest);
        break;
      }
    }
    this.#resetIds.add(id);
    this.writer.numbers(frameType.rstStream, id, code);
  }

  wasReset(id: number): boolean {
    return this.#resetIds.has(id);
  }

  // What streams ask for.

  get frameBytesMax(): number {
    return this.#peer.frameBytesMax;
  }

  get roomBytes(): number {
    return this.writer.backlogBytes < this.#backlogBytesMax ? Math.max(0, this.#sendWindowBytes) : 0;
  }

  sendHeaders(stream: H2Stream, block: Uint8Array, endStream: boolean): void {
    this.writer.headers(stream.id, this.#tableUpdateDue ? this.#updateTable(block) : block, endStream);
  }

  sendData(stream: H2Stream, body: Buffer, from: number, to: number): void {
    this.#sendWindowBytes -= to - from;
    this.#control.earn(updatesPerData);
    this.writer.data(stream.id, body, from, to);
  }

  sendWhole(stream: H2Stream, response: WholeResponse): void {
    const { head, prefix, body, trailers } = response;
    this.#sendWindowBytes -= prefix.length + body.length;
    this.#control.earn(updatesPerData);
    const first = this.#tableUpdateDue ? this.#updateTable(head) : head;
    this.writer.whole(stream.id, first, prefix, body, trailers);
  }

  afterSent(onSent: OnSent): void {
    this.writer.afterSent(onSent);
  }

  countUnsent(bytes: number): void {
    this.#unsentBytes += bytes;
  }

  enqueue(stream: H2Stream): void {
    if (stream.queued) return;
    stream.queued = true;
    this.#queue.push(stream);
  }

  finish(stream: H2Stream): void {
    // An upload that nobody reads on need not be finished (RFC 9113, 8.1).
    if (!stream.remoteEnded) this.resetId(stream.id, errorCode.noError);
    this.#remove(stream);
    this.#onFinished();
  }

  reset(stream: H2Stream, code: number): void {
    this.resetId(stream.id, code);
    this.closedByPeer(stream);
    this.#onFinished();
  }

  whenRoom(stream: H2Stream, start: () => void): void {
    if (this.#unsentBytes <= this.#limits.unsentBytesMax) start();
    else this.#parked.push({ stream, start });
  }

  // Windows.

  /** Counts a DATA frame that came; false when it was more than the connection's window. */
  receive(bytes: number): boolean {
    this.#receiveWindowBytes -= bytes;
    return this.#receiveWindowBytes >= 0;
  }

  consume(stream: H2Stream, bytes: number): void {
    // What a closed stream held was given back then.
    if (stream.closed) return;
    stream.heldBytes -= bytes;
    this.credit(bytes);
    if (stream.remoteEnded) return;
    stream.consumedBytes += bytes;
    if (stream.consumedBytes * 2 < this.#limits.streamWindowBytes) return;
    this.writer.numbers(frameType.windowUpdate, stream.id, stream.consumedBytes);
    stream.receiveWindowBytes += stream.consumedBytes;
    stream.consumedBytes = 0;
  }

  /** Received bytes that need no room any more. */
  credit(bytes: number): void {
    this.#consumedBytes += bytes;
    if (this.#consumedBytes * 2 < this.#limits.connectionWindowBytes) return;
    this.writer.numbers(frameType.windowUpdate, 0, this.#consumedBytes);
    this.#receiveWindowBytes += this.#consumedBytes;
    this.#consumedBytes = 0;
  }

  /** The peer opens its window; false when that is more than a window can be. */
  openWindow(bytes: number): boolean {
    this.#sendWindowBytes += bytes;
    if (this.#sendWindowBytes > windowBytesMax) return false;
    this.pump();
    return true;
  }

  openStreamWindow(stream: H2Stream, bytes: number): boolean {
    stream.sendWindowBytes += bytes;
    if (stream.sendWindowBytes > windowBytesMax) return false;
    if (stream.unsentBytes > 0 && stream.sendWindowBytes > 0) {
      this.enqueue(stream);
      this.pump();
    }
    return true;
  }

  /** False when a window becomes larger than it can be. */
  applyPeer(peer: PeerSettings, tableChanged: boolean): boolean {
    const change = peer.initialWindowBytes - this.#peer.initialWindowBytes;
    this.#peer = peer;
    this.#tableUpdateDue ||= tableChanged;
    this.writer.frameBytesMax = peer.frameBytesMax;
    if (change === 0) return true;
    return this.all().every((stream) => this.openStreamWindow(stream, change));
  }

  /** Lets streams send in turn, as long as there is room. */
  pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    while (this.#queue.length > 0 && this.roomBytes > 0) {
      const turn = this.#queue;
      this.#queue = [];
      for (const stream of turn) {
        stream.queued = false;
        if (!stream.closed) stream.advance(turnBytes);
      }
    }
    this.#pumping = false;
    this.#unpark();
  }

  /** Begins the calls that waited until the client has read enough. */
  #unpark(): void {
    if (this.#parked.length === 0) return;
    const parked = this.#parked;
    this.#parked = [];
    for (const { stream, start } of parked) if (!stream.closed) this.whenRoom(stream, start);
  }

  #updateTable(block: Uint8Array): Uint8Array {
    this.#tableUpdateDue = false;
    return Buffer.concat([noTableUpdate, block]);
  }

  #remove(stream: H2Stream): void {
    this.#open.delete(stream.id);
    stream.close();
    if (stream.heldBytes > 0) this.credit(stream.heldBytes);
  }
}
