// The header list of a request, checked as RFC 9113 wants it (8.2, 8.3), and remembered by the bytes of its block:
// a client sends the same few blocks over and over, and whatever is made of one is made once.
import type { HpackDecoder } from './hpack.ts';

export interface RequestHeaders {
  /** Names and values in turn, as they came, pseudo-headers included; names are in lower case. */
  readonly fields: readonly string[];
  readonly method: string;
  readonly path: string;
  /** `content-length`, where it is given. */
  readonly bodyBytes: number | undefined;
  /** What the application made of this list. Calls with the same bytes share it. */
  note: unknown;
}

/** Why a request is not served: the list is malformed, or larger than was allowed. */
export type HeadersFault = 'malformed' | 'too-large';

const cachedBlockBytesMax = 1024;
const cachedBlocksMax = 64;
const digits = /^[0-9]{1,15}$/;

/** Headers that speak of an HTTP/1 connection have no place here (8.2.2). */
const connectionHeaders: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'upgrade',
]);
// Lower-case tokens (8.2.1, RFC 9110 5.6.2).
const validName = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;
const invalidValue = /[\0\r\n]|^[ \t]|[ \t]$/;

/** The value of the first header of that name, which is the one that counts. */
export function firstOf(fields: readonly string[], name: string): string | undefined {
  for (let i = 0; i < fields.length; i += 2) if (fields[i] === name) return fields[i + 1];
  return undefined;
}

/** The list as a request; undefined when it is malformed. */
export function requestOf(fields: readonly string[]): RequestHeaders | undefined {
  const pseudo = new Map<string, string>();
  let regular = false;
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i]!;
    const value = fields[i + 1]!;
    if (invalidValue.test(value)) return undefined;
    if (name.startsWith(':')) {
      if (regular || pseudo.has(name)) return undefined;
      pseudo.set(name, value);
      continue;
    }
    regular = true;
    if (!validName.test(name) || connectionHeaders.has(name)) return undefined;
    if (name === 'te' && value !== 'trailers') return undefined;
  }
  const method = pseudo.get(':method') ?? '';
  const path = pseudo.get(':path') ?? '';
  const required = method === 'CONNECT' ? [':authority'] : [':scheme', ':path'];
  for (const name of pseudo.keys()) {
    if (name !== ':method' && name !== ':authority' && !required.includes(name)) return undefined;
  }
  if (method === '' || required.some((name) => !pseudo.get(name))) return undefined;
  const length = firstOf(fields, 'content-length');
  if (length !== undefined && !digits.test(length)) return undefined;
  return {
    fields,
    method,
    path,
    bodyBytes: length === undefined ? undefined : Number(length),
    note: undefined,
  };
}

interface Remembered {
  readonly request: RequestHeaders;
  /** The state of the table that the block was read with; undefined when it did not refer to the table. */
  readonly changes: number | undefined;
}

export class HeadersCache {
  readonly #decoder: HpackDecoder;
  readonly #listBytesMax: number;
  readonly #blocks = new Map<string, Remembered>();

  constructor(decoder: HpackDecoder, listBytesMax: number) {
    this.#decoder = decoder;
    this.#listBytesMax = listBytesMax;
  }

  get size(): number {
    return this.#blocks.size;
  }

  /** Reads a request's block. Throws where the decoder does. */
  read(bytes: Buffer, start: number, end: number): RequestHeaders | HeadersFault {
    const decoder = this.#decoder;
    if (end - start > cachedBlockBytesMax) return this.#decode(bytes, start, end);
    const key = bytes.toString('latin1', start, end);
    const known = this.#blocks.get(key);
    if (known !== undefined && (known.changes === undefined || known.changes === decoder.changes)) {
      return known.request;
    }
    const before = decoder.changes;
    const request = this.#decode(bytes, start, end);
    // A block that changes the table means something else when it comes again.
    if (typeof request === 'string' || decoder.changes !== before) return request;
    if (this.#blocks.size >= cachedBlocksMax) this.#blocks.clear();
    this.#blocks.set(key, { request, changes: decoder.usedTable ? before : undefined });
    return request;
  }

  #decode(bytes: Buffer, start: number, end: number): RequestHeaders | HeadersFault {
    const { fields, listBytes } = this.#decoder.decode(bytes, start, end);
    if (listBytes > this.#listBytesMax) return 'too-large';
    return requestOf(fields) ?? 'malformed';
  }
}
