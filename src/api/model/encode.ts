// Encodes messages with one writer that keeps its buffer: a new one grows by doubling for each message of some kilobytes.
import { BinaryWriter } from '@bufbuild/protobuf/wire';

/** A buffer that has grown beyond this is given back. */
const keptBytesMax = 1024 ** 2;
let writer: BinaryWriter | undefined;

export function encodeMessage<T>(
  codec: { encode(message: T, writer?: BinaryWriter): BinaryWriter },
  message: T,
): Uint8Array {
  const mine = writer ?? new BinaryWriter();
  // One that failed in the middle is not used again.
  writer = undefined;
  const bytes = codec.encode(message, mine).finish();
  if (bytes.length <= keptBytesMax) writer = mine;
  return bytes;
}
