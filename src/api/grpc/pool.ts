// Buffers for large response frames, used again once their bytes are with the kernel. A fresh ArrayBuffer for every
// frame makes the collector run all the time: it weighs them like the heap, which is small beside them.
import { fail } from '../model/errors.ts';
import { Encoded } from './bind.ts';
import { framePrefixBytes, writePrefix } from './frame.ts';

const classBitsMin = 12;
const classBitsMax = 21;
/** Larger messages are not worth keeping a buffer for. */
export const pooledMessageBytesMax: number = 2 ** classBitsMax - framePrefixBytes;
export const pooledBytesMaxDefault = 16 * 1024 * 1024;

export class FramePool {
  readonly #free: Buffer[][] = Array.from({ length: classBitsMax - classBitsMin + 1 }, () => []);
  readonly #pooledBytesMax: number;
  #pooledBytes = 0;

  constructor(pooledBytesMax: number = pooledBytesMaxDefault) {
    this.#pooledBytesMax = pooledBytesMax;
  }

  get pooledBytes(): number {
    return this.#pooledBytes;
  }

  /** A buffer of at least `sizeBytes`, with whatever it held before. */
  take(sizeBytes: number): Buffer {
    const bits = classOf(sizeBytes);
    if (bits > classBitsMax) return Buffer.allocUnsafeSlow(sizeBytes);
    const free = this.#free[bits - classBitsMin]!.pop();
    if (free === undefined) return Buffer.allocUnsafeSlow(2 ** bits);
    this.#pooledBytes -= free.length;
    return free;
  }

  /** Takes back a buffer that nobody reads any more. */
  give(buffer: Buffer): void {
    const bits = classOf(buffer.length);
    if (bits > classBitsMax || buffer.length !== 2 ** bits) return;
    if (this.#pooledBytes + buffer.length > this.#pooledBytesMax) return;
    this.#pooledBytes += buffer.length;
    this.#free[bits - classBitsMin]!.push(buffer);
  }
}

function classOf(sizeBytes: number): number {
  return Math.max(classBitsMin, 32 - Math.clz32(Math.max(1, sizeBytes) - 1));
}

/** A response that lies in its frame already. */
export abstract class FramedResponse extends Encoded {
  /** The frame, for sending it once; `onSent` is to be called when that is over. */
  abstract hand(): Buffer;
  abstract readonly onSent: (error?: Error | null) => void;
}

/** A response that a handler fills in its place in the frame: nothing is copied, and the buffer goes round. */
export class PooledResponse extends FramedResponse {
  readonly #pool: FramePool;
  readonly #backing: Buffer;
  #handed = false;

  constructor(pool: FramePool, messageBytes: number) {
    const backing = pool.take(framePrefixBytes + messageBytes);
    super(backing.subarray(framePrefixBytes, framePrefixBytes + messageBytes));
    writePrefix(backing, messageBytes);
    this.#pool = pool;
    this.#backing = backing;
  }

  static copyOf(pool: FramePool, message: Uint8Array): PooledResponse {
    const response = new PooledResponse(pool, message.byteLength);
    response.bytes.set(message);
    return response;
  }

  hand(): Buffer {
    if (this.#handed) throw fail('internal', 'an allocated response was answered twice');
    this.#handed = true;
    return this.#backing.subarray(0, framePrefixBytes + this.bytes.byteLength);
  }

  /** After an error the stream may still hold the buffer: it is left to the collector then. */
  readonly onSent = (error?: Error | null): void => {
    if (error === undefined || error === null) this.#pool.give(this.#backing);
  };
}
