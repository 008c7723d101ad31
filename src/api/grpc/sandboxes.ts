// The Store service of sandboxes.
import { fail } from '../model/errors.ts';
import { compileStoreFilters, mapEntry, nonEmpty } from '../model/filter.ts';
import { StoreDefinition } from '../proto/gen/services/sandbox/v1/sandbox.ts';
import { Sandbox } from '../proto/gen/types/sandbox.ts';
import { type BoundService, bindService } from './bind.ts';
import type { MetadataDeps } from './deps.ts';
import { inFieldOne, listInFieldOne } from './records.ts';

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
      if (filter.all) return listInFieldOne(records);
      const matches = (sandbox: Sandbox) =>
        filter.matches((path) => {
          if (path[0] === 'id' && path.length === 1) return nonEmpty(sandbox.sandboxId);
          return path[0] === 'labels' ? mapEntry(sandbox.labels, path) : undefined;
        });
      return listInFieldOne(records.filter((bytes) => matches(Sandbox.decode(bytes))));
    },

    get({ sandboxId }, { namespace }) {
      const record = sandboxId === '' ? undefined : reader.sandbox(namespace, sandboxId);
      if (record === undefined) throw fail('not-found', `sandbox "${sandboxId}"`);
      return inFieldOne(record);
    },
  });
}
