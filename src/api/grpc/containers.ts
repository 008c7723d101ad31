// The Containers service.
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { RecordPage } from '../../actors/metadata/protocol.ts';
import { fail } from '../model/errors.ts';
import { compileStoreFilters, type Filter } from '../model/filter.ts';
import type { FieldPlaces } from '../model/wire-fields.ts';
import { type Container, ContainersDefinition } from '../proto/gen/services/containers/v1/containers.ts';
import { type BoundService, bindService, type Encoded } from './bind.ts';
import type { MetadataDeps } from './deps.ts';
import { KeptLists } from './kept-lists.ts';
import { inFieldOne, listInFieldOne, recordsMatching } from './records.ts';

/** Records read in one turn of a stream. */
const recordsPerTurn = 256;

const places: FieldPlaces = {
  id: { kind: 'string', at: [1] },
  labels: { kind: 'map', at: [2] },
  image: { kind: 'string', at: [3] },
  'runtime.name': { kind: 'string', at: [4, 1] },
};

function given(container: Container | undefined): Container {
  if (container === undefined) throw fail('invalid-argument', 'the request has no container');
  return container;
}

export function containersService({ metadata, reader }: MetadataDeps): BoundService {
  const version = () => reader.containersVersion();
  const lists = new KeptLists({ version, each: reader.eachContainer }, places);

  /** The records that a filter pins down by their ids, in order; undefined when it does not. */
  function pinned(namespace: string, filter: Filter): Uint8Array[] | undefined {
    const ids = filter.exact('id');
    return ids === undefined
      ? undefined
      : [...ids].sort().flatMap((id) => reader.container(namespace, id) ?? []);
  }

  return bindService(ContainersDefinition, {
    get({ id }, { namespace }) {
      const record = id === '' ? undefined : reader.container(namespace, id);
      if (record === undefined) throw fail('not-found', `container "${id}" in namespace "${namespace}"`);
      return inFieldOne(record);
    },

    list({ filters }, context) {
      const { namespace } = context;
      const filter = compileStoreFilters(filters);
      const found = pinned(namespace, filter);
      if (found !== undefined) return listInFieldOne(recordsMatching(found, filter, places));
      return lists.answer(namespace, filter, (bytes) => context.allocate(bytes));
    },

    async *listStream({ filters }, { namespace }): AsyncIterable<Encoded> {
      const filter = compileStoreFilters(filters);
      const found = pinned(namespace, filter);
      let page: RecordPage =
        found === undefined
          ? reader.containerPage(namespace, recordsPerTurn)
          : { records: found, next: undefined };
      for (;;) {
        for (const record of recordsMatching(page.records, filter, places)) yield inFieldOne(record);
        if (page.next === undefined) return;
        await nextTurn();
        page = reader.containerPage(namespace, recordsPerTurn, page.next);
      }
    },

    async create(request, { namespace }) {
      const container = given(request.container);
      return inFieldOne(await metadata.call('containers.create', { namespace, container }));
    },

    async update(request, { namespace }) {
      const container = given(request.container);
      const mask = request.updateMask ?? [];
      return inFieldOne(await metadata.call('containers.update', { namespace, container, mask }));
    },

    async delete({ id }, { namespace }) {
      await metadata.call('containers.delete', { namespace, id });
      return {};
    },
  });
}
