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

/** Columns as wide as their longest cell, three spaces apart unless said. */
export function formatTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  gap = '   ',
): string[] {
  const lines = [header, ...rows.map((row) => row.map(printable))];
  const widths = header.map((_, column) => Math.max(...lines.map((line) => (line[column] ?? '').length)));
  return lines.map((line) =>
    line
      .map((cell, column) => (column === line.length - 1 ? cell : cell.padEnd(widths[column]!)))
      .join(gap)
      .trimEnd(),
  );
}

/** Columns that begin at multiples of eight, for terminals that know tabs. */
export function formatTabs(header: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const lines = [header, ...rows.map((row) => row.map(printable))];
  const stops = header.map((_, column) =>
    Math.floor(Math.max(...lines.map((line) => (line[column] ?? '').length)) / 8 + 1),
  );
  return lines.map((line) =>
    line
      .map((cell, column) => {
        if (column === line.length - 1) return cell;
        return cell + '\t'.repeat(stops[column]! - Math.floor(cell.length / 8));
      })
      .join(''),
  );
}

const decimalUnits = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

/** `1.862kB`: units of a thousand, four digits. */
export function formatDecimalBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < decimalUnits.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${Number(value.toPrecision(4))}${decimalUnits[unit]}`;
}

/** `Less than a second`, `About a minute`, `3 hours`: how long something has been there. */
export function formatDuration(time: Timestamp | undefined, nowMs: number): string {
  const seconds = time === undefined ? 0 : Math.max(0, Math.floor(nowMs / 1000 - Number(time.seconds)));
  if (seconds < 1) return 'Less than a second';
  if (seconds === 1) return '1 second';
  if (seconds < 60) return `${seconds} seconds`;
  const minutes = Math.floor(seconds / 60);
  if (minutes === 1) return 'About a minute';
  if (minutes < 60) return `${minutes} minutes`;
  const hours = Math.floor(minutes / 60 + 0.5);
  if (hours === 1) return 'About an hour';
  if (hours < 48) return `${hours} hours`;
  if (hours < 24 * 14) return `${Math.floor(hours / 24)} days`;
  if (hours < 24 * 60) return `${Math.floor(hours / 24 / 7)} weeks`;
  if (hours < 24 * 365 * 2) return `${Math.floor(hours / 24 / 30)} months`;
  return `${Math.floor(hours / 24 / 365)} years`;
}

/** `a=b,c=d`, sorted; `-` for none where a table must not have empty cells. */
export function formatLabels(labels: ReadonlyMap<string, string>, none = ''): string {
  if (labels.size === 0) return none;
  return [...labels]
    .map(([key, value]) => `${key}=${value}`)
    .sort()
    .join(',');
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

/** Bytes to a stream that may be slower than their source. */
export async function writeOut(
  output: NodeJS.WritableStream,
  source: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<void> {
  for await (const chunk of source) {
    if (output.write(chunk)) continue;
    await new Promise<void>((resolve) => {
      output.once('drain', resolve);
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
  }
}
