// The frames that say nothing of a request: resets, settings, pings and windows (RFC 9113, 6.4 to 6.9). Each costs the
// client something of what it may send of them.
import type { ConnectionFault } from './blocks.ts';
import type { Budget } from './budget.ts';
import { errorCode, flag, frameType } from './protocol.ts';
import { applySettings, type PeerSettings, peerSettingsDefault } from './settings.ts';
import type { Streams } from './streams.ts';

const noBytes = Buffer.alloc(0);
const pingBytes = 8;
const priorityBytes = 5;
const goawayBytesMin = 8;

export class ControlFrames {
  readonly #streams: Streams;
  readonly #budget: Budget;
  readonly #resets: Budget;
  #peer: PeerSettings = peerSettingsDefault;
  #settingsSeen = false;

  constructor(streams: Streams, budget: Budget, resets: Budget) {
    this.#streams = streams;
    this.#budget = budget;
    this.#resets = resets;
  }

  /** Nothing else may come first (3.4). */
  get settingsSeen(): boolean {
    return this.#settingsSeen;
  }

  /** A fault once the client has used up what it may send of what only costs the server. */
  spend(what: string): ConnectionFault | undefined {
    return this.#budget.spend() ? undefined : { code: errorCode.enhanceYourCalm, text: `too many ${what}` };
  }

  /** Ends a stream for what the client did to it; not without end, since it costs an answer each time. */
  streamFault(streamId: number, code: number): ConnectionFault | undefined {
    const stream = this.#streams.get(streamId);
    if (stream === undefined) this.#streams.resetId(streamId, code);
    else stream.reset(code);
    return this.spend('faults');
  }

  /** `idle` says that no such stream was opened yet. */
  onReset(streamId: number, idle: boolean, length: number): ConnectionFault | undefined {
    if (length !== 4) return sizeFault('RST_STREAM', length);
    if (idle) return idleFault('RST_STREAM', streamId);
    if (!this.#resets.spend()) return { code: errorCode.enhanceYourCalm, text: 'too many canceled calls' };
    const stream = this.#streams.get(streamId);
    if (stream !== undefined) this.#streams.closedByPeer(stream);
    return undefined;
  }

  onPriority(streamId: number, length: number): ConnectionFault | undefined {
    if (streamId === 0) return idleFault('PRIORITY', streamId);
    if (length !== priorityBytes) return this.streamFault(streamId, errorCode.frameSizeError);
    return this.spend('PRIORITY frames');
  }

  /** The client starts no more calls; those that it has are served. */
  onGoaway(streamId: number, length: number): ConnectionFault | undefined {
    if (streamId !== 0) return idleFault('GOAWAY', streamId);
    return length < goawayBytesMin ? sizeFault('GOAWAY', length) : this.spend('GOAWAY frames');
  }

  onSettings(
    flags: number,
    streamId: number,
    bytes: Buffer,
    start: number,
    end: number,
  ): ConnectionFault | undefined {
    if (streamId !== 0) return idleFault('SETTINGS', streamId);
    const spent = this.spend('SETTINGS frames');
    if (spent !== undefined) return spent;
    if ((flags & flag.ack) !== 0)
      return start === end ? undefined : sizeFault('SETTINGS with ACK', end - start);
    const applied = applySettings(this.#peer, bytes, start, end);
    if (typeof applied === 'number') return { code: applied, text: 'a setting is invalid' };
    this.#settingsSeen = true;
    this.#peer = applied.peer;
    this.#streams.writer.frame(frameType.settings, flag.ack, 0, noBytes);
    if (this.#streams.applyPeer(applied.peer, applied.tableChanged)) return undefined;
    return { code: errorCode.flowControlError, text: 'a setting makes a window too large' };
  }

  /** `onAnswer` hears of pings that the client sends back. */
  onPing(
    flags: number,
    streamId: number,
    payload: Buffer,
    onAnswer: (payload: Buffer) => void,
  ): ConnectionFault | undefined {
    if (streamId !== 0) return idleFault('PING', streamId);
    if (payload.length !== pingBytes) return sizeFault('PING', payload.length);
    const spent = this.spend('PING frames');
    if (spent !== undefined) return spent;
    if ((flags & flag.ack) !== 0) onAnswer(payload);
    else this.#streams.writer.frame(frameType.ping, flag.ack, 0, payload);
    return undefined;
  }

  onWindowUpdate(
    streamId: number,
    idle: boolean,
    bytes: Buffer,
    start: number,
    end: number,
  ): ConnectionFault | undefined {
    if (end - start !== 4) return sizeFault('WINDOW_UPDATE', end - start);
    const spent = this.spend('WINDOW_UPDATE frames');
    if (spent !== undefined) return spent;
    const increment = bytes.readUInt32BE(start) & 0x7fffffff;
    if (streamId === 0) {
      if (increment === 0) return { code: errorCode.protocolError, text: 'WINDOW_UPDATE by nothing' };
      if (this.#streams.openWindow(increment)) return undefined;
      return { code: errorCode.flowControlError, text: 'the window of the connection is too large' };
    }
    if (idle) return idleFault('WINDOW_UPDATE', streamId);
    const stream = this.#streams.get(streamId);
    if (stream === undefined) return undefined;
    if (increment === 0) return this.streamFault(streamId, errorCode.protocolError);
    if (this.#streams.openStreamWindow(stream, increment)) return undefined;
    return this.streamFault(streamId, errorCode.flowControlError);
  }
}

function sizeFault(what: string, length: number): ConnectionFault {
  return { code: errorCode.frameSizeError, text: `${what} of ${length} bytes` };
}

function idleFault(what: string, streamId: number): ConnectionFault {
  return { code: errorCode.protocolError, text: `${what} on stream ${streamId}` };
}
