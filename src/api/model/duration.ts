// Durations as Go writes them in configuration and labels: "1h30m", "1.5s", "250ms".

const unitNs: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  μs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3600e9,
};

/** Nanoseconds, or undefined when `text` is not a duration. */
export function parseDurationNs(text: string): bigint | undefined {
  const sign = text.startsWith('-') ? -1 : 1;
  const body = text.replace(/^[+-]/, '');
  if (body === '0') return 0n;
  if (!/^(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+$/.test(body)) return undefined;
  let total = 0;
  for (const [, value, unit] of body.matchAll(/([\d.]+)([a-zµμ]+)/g)) {
    total += Number(value) * (unitNs[unit as string] as number);
  }
  return Number.isFinite(total) ? BigInt(Math.round(sign * total)) : undefined;
}
