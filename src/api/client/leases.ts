// Leases: what is made under one stays until it is released or expires.
import { randomBytes } from 'node:crypto';
import { label } from '../model/labels.ts';
import { formatRfc3339, timestampOfNs } from '../model/time.ts';
import type { Lease as LeaseRecord, Resource } from '../proto/gen/services/leases/v1/leases.ts';
import type { Services } from './connection.ts';
import type { CallOptions } from './stub.ts';

export interface Lease extends AsyncDisposable {
  readonly id: string;
}

export interface LeaseOptions extends CallOptions {
  id?: string;
  expireAfterMs?: number;
  labels?: ReadonlyMap<string, string>;
}

export interface Leases {
  /** `await using lease = await leases.acquire()`: released when the scope ends, and after 24 h whatever happens. */
  acquire(options?: LeaseOptions): Promise<Lease>;
  list(filters?: readonly string[], options?: CallOptions): Promise<LeaseRecord[]>;
  delete(id: string, options?: CallOptions & { sync?: boolean }): Promise<void>;
  addResource(id: string, resource: { id: string; type: string }, options?: CallOptions): Promise<void>;
  resources(id: string, options?: CallOptions): Promise<Resource[]>;
}

const expireAfterMsDefault = 24 * 60 * 60 * 1000;

export function leasesClient(services: Services): Leases {
  const self: Leases = {
    async acquire({ id, expireAfterMs = expireAfterMsDefault, labels, ...options } = {}) {
      const expire = formatRfc3339(timestampOfNs(BigInt(Date.now() + expireAfterMs) * 1_000_000n));
      const { lease } = await services.leases.create(
        {
          id: id ?? `${process.hrtime.bigint() % 1_000_000_000n}-${randomBytes(3).toString('base64url')}`,
          labels: new Map([...(labels ?? []), [label.gcExpire, expire]]),
        },
        options,
      );
      const made = lease?.id ?? '';
      return {
        id: made,
        // The caller's signal may be what ended the scope, so it does not apply here.
        [Symbol.asyncDispose]: () => self.delete(made),
      };
    },
    async list(filters = [], options) {
      return (await services.leases.list({ filters: [...filters] }, options)).leases;
    },
    async delete(id, { sync = false, ...options } = {}) {
      await services.leases.delete({ id, sync }, options);
    },
    async addResource(id, resource, options) {
      await services.leases.addResource({ id, resource }, options);
    },
    async resources(id, options) {
      return (await services.leases.listResources({ id }, options)).resources;
    },
  };
  return self;
}
