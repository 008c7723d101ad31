// SETTINGS frames (RFC 9113, 6.5): what the server says of itself, and what it takes over from a client.
import type { H2Limits } from './limits.ts';
import { errorCode, frameBytesDefault, setting, windowBytesDefault, windowBytesMax } from './protocol.ts';

const entryBytes = 6;
const frameBytesMax = 2 ** 24 - 1;

/** What the client has said of itself, as far as the server minds. */
export interface PeerSettings {
  initialWindowBytes: number;
  frameBytesMax: number;
}

export const peerSettingsDefault: PeerSettings = {
  initialWindowBytes: windowBytesDefault,
  frameBytesMax: frameBytesDefault,
};

export function encodeSettings(limits: H2Limits): Buffer {
  const entries: readonly (readonly [id: number, value: number])[] = [
    [setting.maxConcurrentStreams, limits.concurrentStreamsMax],
    [setting.initialWindowSize, limits.streamWindowBytes],
    [setting.maxHeaderListSize, limits.headerListBytesMax],
  ];
  const payload = Buffer.alloc(entries.length * entryBytes);
  for (const [i, [id, value]] of entries.entries()) {
    payload.writeUInt16BE(id, i * entryBytes);
    payload.writeUInt32BE(value, i * entryBytes + 2);
  }
  return payload;
}

export interface AppliedSettings {
  readonly peer: PeerSettings;
  /** The size of the peer's table was set: the next block has to say that none is used. */
  readonly tableChanged: boolean;
}

/** The settings with the payload applied, or the error code of RFC 9113 that it earns. */
export function applySettings(
  before: PeerSettings,
  bytes: Buffer,
  start: number,
  end: number,
): AppliedSettings | number {
  if ((end - start) % entryBytes !== 0) return errorCode.frameSizeError;
  const peer = { ...before };
  let tableChanged = false;
  for (let at = start; at < end; at += entryBytes) {
    const value = bytes.readUInt32BE(at + 2);
    switch (bytes.readUInt16BE(at)) {
      case setting.headerTableSize:
        tableChanged = true;
        break;
      case setting.enablePush:
        if (value > 1) return errorCode.protocolError;
        break;
      case setting.initialWindowSize:
        if (value > windowBytesMax) return errorCode.flowControlError;
        peer.initialWindowBytes = value;
        break;
      case setting.maxFrameSize:
        if (value < frameBytesDefault || value > frameBytesMax) return errorCode.protocolError;
        peer.frameBytesMax = value;
        break;
      default:
        // Others are the client's business, or unknown and to be ignored.
        break;
    }
  }
  return { peer, tableChanged };
}
