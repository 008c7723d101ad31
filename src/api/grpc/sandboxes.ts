// The Store service of sandboxes.
import { fail } from '../model/errors.ts';
import { compileStoreFilters } from '../model/filter.ts';
import type { FieldPlaces } from '../model/wire-fields.ts';
import { StoreDefinition } from '../proto/gen/services/sandbox/v1/sandbox.ts';
import { Sandbox } from '../proto/gen/types/sandbox.ts';
import { type BoundService, bindService } from './bind.ts';
import type { MetadataDeps } from './deps.ts';
import { inFieldOne, listInFieldOne, recordsMatching } from './records.ts';

const places: FieldPlaces = { id: { kind: 'string', at: [1] }, labels: { kind: 'map', at: [4] } };

function encoded(sandbox: Sandbox | undefined): Uint8Array {
  if (sandbox === undefined) throw fail('invalid-argument', 'the request has no sandbox');
  return Sandbox.encode(sandbox).finish();
}

export function sandboxStoreService({ metadata, reader }: MetadataDeps): BoundService {
  return bindService(StoreDefinition, {
    async create({ sandbox }, { namespace }) {
      return inFieldOne(await metadata.call('sandboxes.create', { namespace, sandbox: encoded(sandbox) }));
    },

    async update({ sandbox, fields }, { namespace }) {
      return inFieldOne(
        await metadata.call('sandboxes.update', { namespace, sandbox: encoded(sandbox), fields }),
      );
    },

    async delete({ sandboxId }, { namespace }) {
      await metadata.call('sandboxes.delete', { namespace, id: sandboxId });
      return {};
    },

    list({ filters }, { namespace }) {
      const filter = compileStoreFilters(filters);
      const records = reader.sandboxes(namespace);
      return listInFieldOne(recordsMatching(records, filter, places));
    },

    get({ sandboxId }, { namespace }) {
      const record = sandboxId === '' ? undefined : reader.sandbox(namespace, sandboxId);
      if (record === undefined) throw fail('not-found', `sandbox "${sandboxId}"`);
      return inFieldOne(record);
    },
  });
}
