// Header blocks as they come: stripped of padding and priority, and put together from CONTINUATION frames within
// limits (RFC 9113, 6.2 and 6.10).
import type { H2Limits } from './limits.ts';
import { errorCode, flag } from './protocol.ts';

/** A whole block, as a range of some bytes. */
export interface HeaderBlock {
  readonly streamId: number;
  readonly endStream: boolean;
  readonly bytes: Buffer;
  readonly start: number;
  readonly end: number;
}

/** What is wrong with the connection. */
export interface ConnectionFault {
  readonly code: number;
  readonly text: string;
}

interface OpenBlock {
  readonly streamId: number;
  readonly endStream: boolean;
  readonly tick: number;
  readonly parts: Buffer[];
  bytes: number;
}

const priorityBytes = 5;
/** Frames of one block: more only serve to keep the server busy. */
const continuationsMax = 64;

export class HeaderBlocks {
  readonly #limits: H2Limits;
  #open: OpenBlock | undefined;

  constructor(limits: H2Limits) {
    this.#limits = limits;
  }

  /** The stream whose block has not ended: nothing but its CONTINUATION may come. */
  get openStreamId(): number | undefined {
    return this.#open?.streamId;
  }

  get openedTick(): number | undefined {
    return this.#open?.tick;
  }

  /** Takes a HEADERS frame: the block when it is whole, undefined when it goes on. */
  begin(
    flags: number,
    streamId: number,
    bytes: Buffer,
    start: number,
    end: number,
    tick: number,
  ): HeaderBlock | ConnectionFault | undefined {
    let from = start;
    let to = end;
    if ((flags & flag.padded) !== 0) {
      if (from >= to)
        return { code: errorCode.frameSizeError, text: 'HEADERS without the length of its padding' };
      to -= bytes[from++]!;
    }
    if ((flags & flag.priority) !== 0) from += priorityBytes;
    if (from > to) return { code: errorCode.protocolError, text: 'HEADERS is all padding' };
    const endStream = (flags & flag.endStream) !== 0;
    if ((flags & flag.endHeaders) !== 0) return { streamId, endStream, bytes, start: from, end: to };
    this.#open = { streamId, endStream, tick, parts: [bytes.subarray(from, to)], bytes: to - from };
    return undefined;
  }

  /** Takes a CONTINUATION frame of the open block. */
  continue(
    flags: number,
    bytes: Buffer,
    start: number,
    end: number,
  ): HeaderBlock | ConnectionFault | undefined {
    const block = this.#open!;
    block.bytes += end - start;
    block.parts.push(bytes.subarray(start, end));
    if (block.bytes > this.#limits.headerBlockBytesMax || block.parts.length > continuationsMax) {
      return { code: errorCode.enhanceYourCalm, text: `a header block of ${block.bytes} bytes or more` };
    }
    if ((flags & flag.endHeaders) === 0) return undefined;
    this.#open = undefined;
    const { streamId, endStream } = block;
    return { streamId, endStream, bytes: Buffer.concat(block.parts), start: 0, end: block.bytes };
  }
}
