// How sizes, times, digests and tables are shown.
import type { Timestamp } from '../client/index.ts';

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** `1.5 MiB`, as ctr shows sizes. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

const spans: readonly (readonly [string, number])[] = [
  ['year', 365 * 86_400],
  ['month', 30 * 86_400],
  ['week', 7 * 86_400],
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
  ['second', 1],
];

/** `3 minutes ago` */
export function formatAge(time: Timestamp | undefined, nowMs: number): string {
  if (time === undefined) return '-';
  const seconds = Math.max(0, Math.floor(nowMs / 1000 - Number(time.seconds)));
  for (const [name, length] of spans) {
    const count = Math.floor(seconds / length);
    if (count >= 1) return `${count} ${name}${count === 1 ? '' : 's'} ago`;
  }
  return 'just now';
}

/** The first twelve digits of a digest. */
export function shortDigest(digest: string): string {
  return digest.slice(digest.indexOf(':') + 1).slice(0, 12);
}

/** Control characters of names that others chose must not reach the terminal. */
export function printable(text: string): string {
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, '?');
}

/** Columns as wide as their longest cell, three spaces apart. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const lines = [header, ...rows.map((row) => row.map(printable))];
  const widths = header.map((_, column) => Math.max(...lines.map((line) => (line[column] ?? '').length)));
  return lines.map((line) =>
    line
      .map((cell, column) => (column === line.length - 1 ? cell : cell.padEnd(widths[column]!)))
      .join('   ')
      .trimEnd(),
  );
}

/** JSON of a generated message: 64-bit numbers, maps, bytes and times included, unknown fields left out. */
export function messageJson(value: unknown): string {
  return JSON.stringify(value, (key, item: unknown) => {
    if (key === '_unknownFields') return undefined;
    if (typeof item === 'bigint') return Number.isSafeInteger(Number(item)) ? Number(item) : String(item);
    if (item instanceof Map) return Object.fromEntries(item);
    if (item instanceof Uint8Array) return Buffer.from(item).toString('base64');
    // A Buffer has become this before we see it.
    if (typeof item === 'object' && item !== null && (item as { type?: unknown }).type === 'Buffer') {
      return Buffer.from((item as unknown as { data: number[] }).data).toString('base64');
    }
    return item;
  });
}
