// The table [timeouts] of config.toml: time limits by the names that containerd gives them.
import { parseDurationNs } from '../../api/model/duration.ts';
import { fail } from '../../api/model/errors.ts';
import type { Table } from './section.ts';

/** Milliseconds by full name. */
export type Timeouts = ReadonlyMap<string, number>;

const prefix = 'io.containerd.timeout.';

/** Those that have a meaning here. */
const defaultsMs: Readonly<Record<string, number>> = {
  'bolt.open': 0,
  'metrics.shimstats': 2000,
  'shim.cleanup': 5000,
  'shim.load': 5000,
  'shim.shutdown': 3000,
  'task.state': 2000,
};
/** Of those that nobody has set. */
const otherwiseMs = 1000;

/** Throws `invalid-argument` for anything that is no duration. */
export function timeoutsFrom(table: Table): Timeouts {
  const timeouts = new Map(Object.entries(defaultsMs).map(([name, ms]) => [prefix + name, ms]));
  for (const [name, value] of Object.entries(table)) {
    const durationNs = typeof value === 'string' ? parseDurationNs(value) : undefined;
    if (durationNs === undefined || durationNs < 0n) {
      throw fail('invalid-argument', `config: timeouts."${name}" must be a duration, not "${value}"`);
    }
    timeouts.set(name, Math.ceil(Number(durationNs) / 1e6));
  }
  return timeouts;
}

/** A limit by the end of its name: `shim.load`. */
export function timeoutMsOf(timeouts: Timeouts, name: string): number {
  return timeouts.get(prefix + name) ?? otherwiseMs;
}

/** In the form of config.toml. */
export function timeoutsToToml(timeouts: Timeouts): Record<string, string> {
  return Object.fromEntries(
    [...timeouts].map(([name, ms]) => [name, ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`]),
  );
}
