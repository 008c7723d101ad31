// Bytes over a message stream with windows: a sender sends no more than the receiver has granted. The same on both
// ends of a connection.
import { Any } from '../proto/gen/google/protobuf/any.ts';
import { Data, WindowUpdate } from '../proto/gen/types/transfer/streaming.ts';
import { fail } from './errors.ts';

/** Either end of a message stream. */
export interface MessageStream {
  send(message: Any): Promise<void>;
  /** Undefined after the other side's last message. */
  receive(): Promise<Any | undefined>;
}

/** What one grant allows, and how much may be granted at a time. */
export const windowBytes = 64 * 1024;
const grantedBytesMax = 1024 * 1024;
export const dataBytesMax = 32 * 1024;

interface Codec<T> {
  readonly $type: string;
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

/** A message in an envelope whose type is its bare name: prefixed ones are refused by containerd's clients. */
export function packAny<T>(codec: Codec<T>, message: T): Any {
  return Any.fromPartial({ typeUrl: codec.$type, value: codec.encode(message).finish() });
}

/** Undefined when the envelope holds something else. */
export function unpackAny<T>(codec: Codec<T>, any: Any | undefined): T | undefined {
  if (any === undefined || any.typeUrl !== codec.$type) return undefined;
  try {
    return codec.decode(any.value);
  } catch (error) {
    throw fail('invalid-argument', `${any.typeUrl}: not a valid message`, error);
  }
}

/** The bytes that the other side sends, until it ends its stream. */
export async function* receiveBytes(stream: MessageStream): AsyncGenerator<Uint8Array, void, undefined> {
  let granted = 0;
  for (;;) {
    while (granted <= grantedBytesMax - windowBytes) {
      await stream.send(packAny(WindowUpdate, { update: windowBytes }));
      granted += windowBytes;
    }
    const message = await stream.receive();
    if (message === undefined) return;
    const data = unpackAny(Data, message)?.data;
    if (data === undefined)
      throw fail('invalid-argument', `stream of bytes: unexpected "${message.typeUrl}"`);
    granted -= data.byteLength;
    if (granted < 0) throw fail('invalid-argument', 'stream of bytes: more than was granted');
    if (data.byteLength > 0) yield data;
  }
}

/** Sends all of `source` as the receiver grants it. Whoever calls closes the stream afterwards. */
export async function sendBytes(stream: MessageStream, source: AsyncIterable<Uint8Array>): Promise<void> {
  let credit = 0;
  let ended = false;
  let failure: unknown;
  let wake: (() => void) | undefined;
  const listening = (async () => {
    try {
      for (;;) {
        const message = await stream.receive();
        if (message === undefined) break;
        const update = unpackAny(WindowUpdate, message)?.update;
        if (update === undefined || update < 0) {
          throw fail('invalid-argument', `stream of bytes: unexpected "${message.typeUrl}"`);
        }
        credit += update;
        wake?.();
      }
    } catch (error) {
      failure = error;
    }
    ended = true;
    wake?.();
  })();
  for await (const chunk of source) {
    for (let at = 0; at < chunk.byteLength; ) {
      while (credit === 0) {
        if (failure !== undefined) throw failure;
        if (ended) throw fail('canceled', 'stream of bytes: the receiver has left');
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      const length = Math.min(dataBytesMax, credit, chunk.byteLength - at);
      credit -= length;
      await stream.send(packAny(Data, { data: chunk.subarray(at, at + length) }));
      at += length;
    }
  }
  // It goes on until the stream is closed; what it meets then is of no interest.
  void listening;
}
