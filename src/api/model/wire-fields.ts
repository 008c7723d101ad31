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
  /** The record that `lookup` looks at from now on. */
  of(record: Uint8Array): FieldLookup;
}

const lengthDelimited = 2;

/** Compiles places to a look-up that is moved from record to record. */
export function recordFields(places: FieldPlaces): RecordFields {
  let bytes: Buffer = Buffer.alloc(0);
  const getters = new Map<readonly string[], () => string | undefined>();
  const getterOf = (path: readonly string[]): (() => string | undefined) => {
    const known = getters.get(path);
    if (known !== undefined) return known;
    const getter = compile(places, path, () => bytes);
    getters.set(path, getter);
    return getter;
  };
  const lookup: FieldLookup = (path) => getterOf(path)();
  return {
    of(record) {
      bytes = Buffer.isBuffer(record)
        ? record
        : Buffer.from(record.buffer, record.byteOffset, record.byteLength);
      return lookup;
    },
  };
}

const absent = (): undefined => undefined;

function compile(
  places: FieldPlaces,
  path: readonly string[],
  record: () => Buffer,
): () => string | undefined {
  const whole = path.join('.');
  const place = path.length <= 2 && Object.hasOwn(places, whole) ? places[whole] : undefined;
  if (place?.kind === 'string' && whole.split('.').length === path.length) {
    const { at, always = false } = place;
    return () => {
      const bytes = record();
      const found = find(bytes, at);
      return found === undefined || found.start === found.end
        ? always
          ? ''
          : undefined
        : bytes.toString('utf8', found.start, found.end);
    };
  }
  const [first = ''] = path;
  const map = Object.hasOwn(places, first) ? places[first] : undefined;
  if (map?.kind !== 'map' || path.length < 2) return absent;
  const key = Buffer.from(path.slice(1).join('.'));
  return () => mapValue(record(), map.at, key);
}

interface Span {
  start: number;
  end: number;
}

/** The last occurrence of a field counts, in the last message that holds one. */
function find(bytes: Buffer, at: readonly number[]): Span | undefined {
  let found: Span | undefined;
  walk(bytes, 0, bytes.length, at, (start, end) => {
    found = { start, end };
  });
  return found;
}

function mapValue(bytes: Buffer, at: readonly number[], key: Buffer): string | undefined {
  let value: string | undefined;
  walk(bytes, 0, bytes.length, at, (start, end) => {
    let keyMatches = key.length === 0;
    let valueStart = start;
    let valueEnd = start;
    fields(bytes, start, end, (field, from, to) => {
      if (field === 1) keyMatches = isAt(bytes, from, to, key);
      else if (field === 2) {
        valueStart = from;
        valueEnd = to;
      }
    });
    if (keyMatches) value = bytes.toString('utf8', valueStart, valueEnd);
  });
  return value;
}

/** Keys are short: a call into native code would take longer than looking. */
function isAt(bytes: Buffer, from: number, to: number, key: Buffer): boolean {
  if (to - from !== key.length) return false;
  // From the end: keys of one kind begin alike.
  for (let i = key.length - 1; i >= 0; i--) if (bytes[from + i] !== key[i]) return false;
  return true;
}

/** Visits every occurrence of a nested field. */
function walk(
  bytes: Buffer,
  start: number,
  end: number,
  at: readonly number[],
  visit: (start: number, end: number) => void,
  depth = 0,
): void {
  const wanted = at[depth];
  fields(bytes, start, end, (field, from, to) => {
    if (field !== wanted) return;
    if (depth === at.length - 1) visit(from, to);
    else walk(bytes, from, to, at, visit, depth + 1);
  });
}

/** The length-delimited fields of a message: number, and where the value is. */
function fields(
  bytes: Buffer,
  start: number,
  end: number,
  visit: (field: number, from: number, to: number) => void,
): void {
  let at = start;
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
      visit(tag >>> 3, at, at + length);
      at += length;
    } else if (wireType === 0) {
      while ((bytes[at++] as number) > 0x7f);
    } else if (wireType === 1) at += 8;
    else if (wireType === 5) at += 4;
    else return;
  }
}
