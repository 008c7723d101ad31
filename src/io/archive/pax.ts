// PAX extended headers (POSIX.1-2024 pax, "pax Extended Header"): records of `length key=value\n`.
import { fail } from '../../api/model/errors.ts';
import type { ByteString } from './bytes.ts';

export const xattrPrefix = 'SCHILY.xattr.';

export interface PaxRecord {
  key: ByteString;
  value: ByteString;
}

/** Records in order; throws `invalid-argument` when the block is malformed. */
export function decodePax(block: Buffer): PaxRecord[] {
  const records: PaxRecord[] = [];
  let at = 0;
  while (at < block.length) {
    const blank = block.indexOf(0x20, at);
    const digits = blank < 0 ? '' : block.toString('latin1', at, blank);
    const end = at + (/^[0-9]{1,9}$/.test(digits) ? Number(digits) : 0);
    const equals = block.indexOf(0x3d, blank);
    if (end <= blank || end > block.length || equals < 0 || equals >= end || block[end - 1] !== 0x0a) {
      throw fail('invalid-argument', 'malformed PAX record');
    }
    const key = block.toString('latin1', blank + 1, equals);
    if (key === '' || key.includes('\0')) throw fail('invalid-argument', 'malformed PAX key');
    records.push({ key, value: block.toString('latin1', equals + 1, end - 1) });
    at = end;
  }
  return records;
}

export function encodePax(records: readonly PaxRecord[]): Buffer {
  return Buffer.from(records.map(encodeRecord).join(''), 'latin1');
}

/** The length counts its own digits too. */
function encodeRecord({ key, value }: PaxRecord): ByteString {
  const rest = key.length + value.length + 3;
  let total = rest + String(rest).length;
  total = rest + String(total).length;
  return `${total} ${key}=${value}\n`;
}

export interface PaxTime {
  seconds: number;
  nanos: number;
}

/** `[-]seconds[.fraction]`, the fraction cut to nanoseconds. */
export function parsePaxTime(value: string): PaxTime {
  const match = /^(-?)(\d{1,15})(?:\.(\d*))?$/.exec(value);
  if (match === null) throw fail('invalid-argument', `PAX time "${value.slice(0, 64)}" is malformed`);
  const seconds = Number(match[2]);
  const nanos = Number((match[3] ?? '').slice(0, 9).padEnd(9, '0'));
  if (match[1] === '') return { seconds, nanos };
  return nanos === 0 ? { seconds: -seconds, nanos } : { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos };
}

export function parsePaxInteger(key: string, value: string): number {
  const number = /^-?\d{1,19}$/.test(value) ? Number(value) : Number.NaN;
  if (!Number.isSafeInteger(number)) {
    throw fail('invalid-argument', `PAX record ${key}="${value.slice(0, 64)}" is not a usable number`);
  }
  return number;
}
