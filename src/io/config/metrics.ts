// The table [metrics] of config.toml: where figures for Prometheus are served.
import { fail } from '../../api/model/errors.ts';
import type { Section } from './section.ts';

export interface MetricsConfig {
  /** `host:port`; empty: figures are not served. */
  address: string;
}

export function metricsFrom(section: Section | undefined): MetricsConfig {
  const address = section?.string('address') ?? '';
  if (address !== '') parseListenAddress(address);
  // One histogram for each call is always kept; the key is containerd's switch for it.
  section?.boolean('grpc_histogram');
  return { address };
}

/** `127.0.0.1:1338`, `[::1]:1338`, `:1338` */
export function parseListenAddress(address: string): { host: string | undefined; port: number } {
  const found = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(address);
  const port = Number(found?.[3]);
  if (found === null || port > 65_535) {
    throw fail('invalid-argument', `config: metrics.address must be host:port, not "${address}"`);
  }
  return { host: (found[1] ?? found[2]) || undefined, port };
}
