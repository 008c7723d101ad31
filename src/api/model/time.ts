// google.protobuf.Timestamp to and from the clock and RFC 3339, nanoseconds kept.
import type { Timestamp } from '../proto/gen/google/protobuf/timestamp.ts';

/** Go's zero time.Time, 0001-01-01T00:00:00Z: what "not exited" looks like on the wire. */
export const goZeroTime: Timestamp = Object.freeze({ seconds: -62135596800n, nanos: 0 });

/** Hands out the time in nanoseconds since the epoch, never the same value twice and never going back. */
export interface Clock {
  nowNs(): bigint;
}

export function systemClock(): Clock {
  const base = BigInt(Date.now()) * 1_000_000n - process.hrtime.bigint();
  let offset = base;
  let last = 0n;
  return {
    nowNs() {
      const mono = process.hrtime.bigint();
      let now = offset + mono;
      const wallNs = BigInt(Date.now()) * 1_000_000n;
      // The monotonic clock gives the resolution; the wall clock decides when it was set or has drifted.
      if (now - wallNs > 50_000_000n || wallNs - now > 50_000_000n) {
        offset = wallNs - mono;
        now = wallNs;
      }
      if (now <= last) now = last + 1n;
      last = now;
      return now;
    },
  };
}

export function timestampOfNs(ns: bigint): Timestamp {
  let seconds = ns / 1_000_000_000n;
  let nanos = Number(ns % 1_000_000_000n);
  if (nanos < 0) {
    nanos += 1_000_000_000;
    seconds -= 1n;
  }
  return { seconds, nanos };
}

export function nsOfTimestamp(t: Timestamp): bigint {
  return t.seconds * 1_000_000_000n + BigInt(t.nanos);
}

const rfc3339 = /^(\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2})(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d{2}:\d{2})$/;

/** Nanoseconds since the epoch, or undefined when `text` is not an RFC 3339 time. */
export function parseRfc3339(text: string): bigint | undefined {
  const m = rfc3339.exec(text);
  if (m === null) return undefined;
  const ms = Date.parse(`${m[1]}${m[3]}`.toUpperCase());
  if (Number.isNaN(ms)) return undefined;
  return BigInt(ms) * 1_000_000n + BigInt((m[2] ?? '').padEnd(9, '0'));
}

export function formatRfc3339(t: Timestamp): string {
  const whole = new Date(Number(t.seconds) * 1000).toISOString().slice(0, 19);
  const fraction = t.nanos === 0 ? '' : `.${String(t.nanos).padStart(9, '0').replace(/0+$/, '')}`;
  return `${whole}${fraction}Z`;
}
