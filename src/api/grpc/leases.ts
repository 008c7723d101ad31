// The Leases service.
import type { ContentStore } from '../../actors/content/protocol.ts';
import { fail } from '../model/errors.ts';
import { compileStoreFilters } from '../model/filter.ts';
import type { FieldPlaces } from '../model/wire-fields.ts';
import { LeasesDefinition, type Resource } from '../proto/gen/services/leases/v1/leases.ts';
import { type BoundService, bindService } from './bind.ts';
import type { Collect, MetadataDeps } from './deps.ts';
import { inFieldOne, listInFieldOne, recordsMatching } from './records.ts';

const places: FieldPlaces = { id: { kind: 'string', at: [1] }, labels: { kind: 'map', at: [3] } };

function given(resource: Resource | undefined): { type: string; id: string } {
  if (resource === undefined) throw fail('invalid-argument', 'the request has no resource');
  return { type: resource.type, id: resource.id };
}

export interface LeasesDeps extends MetadataDeps {
  readonly collect: Collect;
  /** Its open ingests join their leases a little later than they are opened. */
  readonly content?: Pick<ContentStore, 'recordOpen'>;
}

export function leasesService({ metadata, reader, collect, content }: LeasesDeps): BoundService {
  return bindService(LeasesDefinition, {
    async create({ id, labels }, { namespace }) {
      return inFieldOne(await metadata.call('leases.create', { namespace, id, labels }));
    },

    async delete({ id, sync }, { namespace, signal }) {
      await metadata.call('leases.delete', { namespace, id });
      if (sync) await collect(signal);
      return {};
    },

    list({ filters }, { namespace }) {
      const filter = compileStoreFilters(filters);
      const records = reader.leases(namespace);
      return listInFieldOne(recordsMatching(records, filter, places));
    },

    async addResource({ id, resource }, { namespace }) {
      await metadata.call('leases.add', { namespace, id, resource: given(resource) });
      return {};
    },

    async deleteResource({ id, resource }, { namespace }) {
      await metadata.call('leases.remove', { namespace, id, resource: given(resource) });
      return {};
    },

    async listResources({ id }, { namespace }) {
      await content?.recordOpen(namespace);
      const resources = id === '' ? undefined : reader.leaseResources(namespace, id);
      if (resources === undefined) throw fail('not-found', `lease "${id}"`);
      return { resources };
    },
  });
}
