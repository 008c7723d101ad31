// Sparse files in PAX archives, GNU formats 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files").
import { fail } from '../../api/model/errors.ts';
import { quoted } from './bytes.ts';
import { type PaxRecord, parsePaxInteger } from './pax.ts';
import type { SparseMap, TarHeader } from './tar-header.ts';

const partsMax = 1 << 20;

/** Reads the sparse records; `in-data` means that the map is in front of the file's data (format 1.0). */
export function applySparse(header: TarHeader, records: readonly PaxRecord[]): 'none' | 'listed' | 'in-data' {
  let major = 0;
  let sizeBytes: number | undefined;
  const numbers: number[] = [];
  let found = false;
  for (const { key, value } of records) {
    if (!key.startsWith('GNU.sparse.') || value === '') continue;
    found = true;
    if (key === 'GNU.sparse.major') major = parsePaxInteger(key, value);
    else if (key === 'GNU.sparse.name') header.name = value;
    else if (key === 'GNU.sparse.size' || key === 'GNU.sparse.realsize')
      sizeBytes = parsePaxInteger(key, value);
    else if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') {
      numbers.push(parsePaxInteger(key, value));
    } else if (key === 'GNU.sparse.map') {
      for (const number of value.split(',')) numbers.push(parsePaxInteger(key, number));
    }
  }
  if (!found) return 'none';
  if (sizeBytes === undefined || sizeBytes < 0) {
    throw fail('invalid-argument', `sparse entry ${quoted(header.name)} has no size`);
  }
  header.sparse = { sizeBytes, parts: [] };
  if (major === 1) return 'in-data';
  header.sparse = mapOf(header, numbers, sizeBytes, header.sizeBytes);
  return 'listed';
}

/** Format 1.0: the count and then offset and length of each part, decimal, a line each, padded to whole blocks. */
export class SparseMapReader {
  readonly #header: TarHeader;
  readonly #numbers: number[] = [];
  #line = '';

  constructor(header: TarHeader) {
    this.#header = header;
  }

  /** Takes a block; returns the map when it is complete. `left` is how many bytes of data follow the block. */
  push(block: Buffer, left: number): SparseMap | undefined {
    const lines = (this.#line + block.toString('latin1', 0, block.length)).split('\n');
    this.#line = lines.pop() ?? '';
    for (const line of lines) {
      this.#numbers.push(parsePaxInteger('sparse map', line));
      const count = this.#numbers[0] ?? 0;
      if (count < 0 || count > partsMax) throw fail('invalid-argument', `sparse map of ${count} parts`);
      if (this.#numbers.length === 1 + 2 * count) {
        const sizeBytes = this.#header.sparse?.sizeBytes ?? 0;
        return mapOf(this.#header, this.#numbers.slice(1), sizeBytes, left);
      }
    }
    if (this.#line.length > 64) throw fail('invalid-argument', 'malformed sparse map');
    return undefined;
  }
}

function mapOf(header: TarHeader, numbers: readonly number[], sizeBytes: number, stored: number): SparseMap {
  const parts: SparseMap['parts'] = [];
  let end = 0;
  let total = 0;
  for (let i = 0; i < numbers.length; i += 2) {
    const offset = numbers[i] ?? -1;
    const length = numbers[i + 1] ?? -1;
    if (offset < end || length < 0 || offset + length > sizeBytes) {
      throw fail('invalid-argument', `sparse map of ${quoted(header.name)} is out of order or range`);
    }
    end = offset + length;
    total += length;
    if (length > 0) parts.push({ offset, length });
  }
  if (total !== stored) {
    throw fail('invalid-argument', `sparse map of ${quoted(header.name)} does not match its data`);
  }
  return { sizeBytes, parts };
}
