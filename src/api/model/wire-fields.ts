// Reads single fields of encoded messages where they stand: a filter over thousands of records decodes none of them.
import type { FieldLookup } from './filter.ts';

/**
 * Where a path of a filter is found: numbers of fields, from the message inwards. `map`: the entry of a map of strings
 * that the rest of the path names. An empty string counts as absent unless the field is `always` there.
 */
export type FieldPlace =
  | { readonly kind: 'string'; readonly at: readonly number[]; readonly always?: boolean }
  | { readonly kind: 'map'; readonly at: readonly number[] };

/** By what a filter calls them: `id`, `runtime.name`, `labels`. */
export type FieldPlaces = Readonly<Record<string, FieldPlace>>;

export interface RecordFields {
  /** The record that `lookup` looks at from now on: these bytes, or the part of them from `start` up to `end`. */
  of(record: Uint8Array, start?: number, end?: number): FieldLookup;
}

const lengthDelimited = 2;
const noBytes = Buffer.alloc(0);

/** Compiles places to a look-up that is moved from record to record. */
export function recordFields(places: FieldPlaces): RecordFields {
  const record: Span = { bytes: noBytes, start: 0, end: 0 };
  const getters = new Map<readonly string[], () => string | undefined>();
  const lookup: FieldLookup = (path) => {
    let getter = getters.get(path);
    if (getter === undefined) {
      getter = compile(places, path, record);
      getters.set(path, getter);
    }
    return getter();
  };
  return {
    of(bytes, start = 0, end = bytes.length) {
      record.bytes = Buffer.isBuffer(bytes)
        ? bytes
        : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      record.start = start;
      record.end = end;
      return lookup;
    },
  };
}

/** Part of a buffer; written to again and again, so that looking makes no garbage. */
interface Span {
  bytes: Buffer;
  start: number;
  end: number;
}

const absent = (): undefined => undefined;

function compile(places: FieldPlaces, path: readonly string[], record: Span): () => string | undefined {
  const whole = path.join('.');
  const place = path.length <= 2 && Object.hasOwn(places, whole) ? places[whole] : undefined;
  const read = textReader();
  if (place?.kind === 'string' && whole.split('.').length === path.length) {
    const { at, always = false } = place;
    const finder = new Finder(at);
    return () => {
      finder.find(record);
      return finder.start === finder.end ? (always ? '' : undefined) : read(finder);
    };
  }
  const [first = ''] = path;
  const map = Object.hasOwn(places, first) ? places[first] : undefined;
  if (map?.kind !== 'map' || path.length < 2) return absent;
  const finder = new Finder(map.at, Buffer.from(path.slice(1).join('.')));
  return () => (finder.find(record) ? read(finder) : undefined);
}

const rememberedBytesMax = 64;

/** Decodes spans. Neighbours have the same values as a rule: the last text is given again when the bytes are its. */
function textReader(): (span: Span) => string {
  let lastBytes = noBytes;
  let lastText = '';
  return ({ bytes, start, end }) => {
    if (isAt(bytes, start, end, lastBytes)) return lastText;
    const text = bytes.toString('utf8', start, end);
    if (end - start <= rememberedBytesMax) {
      lastBytes = Buffer.from(bytes.subarray(start, end));
      lastText = text;
    }
    return text;
  };
}

/** Short texts: a call into native code would take longer than looking. */
function isAt(bytes: Buffer, from: number, to: number, text: Buffer): boolean {
  if (to - from !== text.length) return false;
  // From the end: keys of one kind begin alike.
  for (let i = text.length - 1; i >= 0; i--) if (bytes[from + i] !== text[i]) return false;
  return true;
}

/** Finds a string, or with a key the value of an entry of a map: where it was found is in the finder itself. */
class Finder implements Span {
  bytes: Buffer = noBytes;
  start = 0;
  end = 0;
  readonly #at: readonly number[];
  readonly #key: Buffer | undefined;
  readonly #scans: readonly FieldScan[];
  readonly #entry = new FieldScan();
  #isFound = false;

  constructor(at: readonly number[], key?: Buffer) {
    this.#at = at;
    this.#key = key;
    this.#scans = at.map(() => new FieldScan());
  }

  /** The last occurrence counts, in the last message that holds one. Without any the span is empty. */
  find({ bytes, start, end }: Span): boolean {
    this.bytes = bytes;
    this.start = this.end = start;
    this.#isFound = false;
    this.#walk(start, end, 0);
    return this.#isFound;
  }

  #walk(start: number, end: number, depth: number): void {
    const wanted = this.#at[depth];
    const isLast = depth === this.#at.length - 1;
    const scan = this.#scans[depth] as FieldScan;
    scan.begin(this.bytes, start, end);
    while (scan.next()) {
      if (scan.field !== wanted) continue;
      if (!isLast) this.#walk(scan.from, scan.to, depth + 1);
      else if (this.#key === undefined) this.#take(scan.from, scan.to);
      else this.#lookAt(scan.from, scan.to, this.#key);
    }
  }

  #lookAt(start: number, end: number, key: Buffer): void {
    const entry = this.#entry;
    let keyMatches = key.length === 0;
    let valueStart = start;
    let valueEnd = start;
    entry.begin(this.bytes, start, end);
    while (entry.next()) {
      if (entry.field === 1) keyMatches = isAt(this.bytes, entry.from, entry.to, key);
      else if (entry.field === 2) {
        valueStart = entry.from;
        valueEnd = entry.to;
      }
    }
    if (keyMatches) this.#take(valueStart, valueEnd);
  }

  #take(start: number, end: number): void {
    this.#isFound = true;
    this.start = start;
    this.end = end;
  }
}

/** Walks the length-delimited fields of a message: number, and where the value is. */
class FieldScan {
  field = 0;
  from = 0;
  to = 0;
  #bytes: Buffer = noBytes;
  #at = 0;
  #end = 0;

  begin(bytes: Buffer, start: number, end: number): void {
    this.#bytes = bytes;
    this.#at = start;
    this.#end = end;
  }

  next(): boolean {
    const bytes = this.#bytes;
    const end = this.#end;
    let at = this.#at;
    while (at < end) {
      let tag = bytes[at++] as number;
      if (tag > 0x7f) {
        let shift = 7;
        tag &= 0x7f;
        for (let more = true; more; shift += 7) {
          const byte = bytes[at++] as number;
          tag += (byte & 0x7f) * 2 ** shift;
          more = byte > 0x7f;
        }
      }
      const wireType = tag & 7;
      if (wireType === lengthDelimited) {
        let length = bytes[at++] as number;
        if (length > 0x7f) {
          let shift = 7;
          length &= 0x7f;
          for (let more = true; more; shift += 7) {
            const byte = bytes[at++] as number;
            length += (byte & 0x7f) * 2 ** shift;
            more = byte > 0x7f;
          }
        }
        this.field = tag >>> 3;
        this.from = at;
        this.to = this.#at = at + length;
        return true;
      }
      if (wireType === 0) {
        while ((bytes[at++] as number) > 0x7f);
      } else if (wireType === 1) at += 8;
      else if (wireType === 5) at += 4;
      else break;
    }
    this.#at = end;
    return false;
  }
}
