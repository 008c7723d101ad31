// The Containers service.

import { fail } from '../model/errors.ts';
import { compileStoreFilters, type FieldLookup, mapEntry, nonEmpty } from '../model/filter.ts';
import { Container, ContainersDefinition } from '../proto/gen/services/containers/v1/containers.ts';
import { type BoundService, bindService, type Encoded } from './bind.ts';
import type { MetadataDeps } from './deps.ts';
import { inFieldOne, listInFieldOne } from './records.ts';

function lookup(container: Container): FieldLookup {
  return (path) => {
    switch (path[0]) {
      case 'id':
        return path.length === 1 ? nonEmpty(container.id) : undefined;
      case 'image':
        return path.length === 1 ? nonEmpty(container.image) : undefined;
      case 'runtime':
        return path.length === 2 && path[1] === 'name' ? nonEmpty(container.runtime?.name ?? '') : undefined;
      case 'labels':
        return mapEntry(container.labels, path);
      default:
        return undefined;
    }
  };
}

function given(container: Container | undefined): Container {
  if (container === undefined) throw fail('invalid-argument', 'the request has no container');
  return container;
}

export function containersService({ metadata, reader }: MetadataDeps): BoundService {
  function matching(namespace: string, filters: string[]): Uint8Array[] {
    const filter = compileStoreFilters(filters);
    const ids = filter.exact('id');
    const records =
      ids === undefined
        ? reader.containers(namespace)
        : [...ids].sort().flatMap((id) => reader.container(namespace, id) ?? []);
    return filter.all ? records : records.filter((bytes) => filter.matches(lookup(Container.decode(bytes))));
  }

  return bindService(ContainersDefinition, {
    get({ id }, { namespace }) {
      const record = id === '' ? undefined : reader.container(namespace, id);
      if (record === undefined) throw fail('not-found', `container "${id}" in namespace "${namespace}"`);
      return inFieldOne(record);
    },

    list: ({ filters }, { namespace }) => listInFieldOne(matching(namespace, filters)),

    async *listStream({ filters }, { namespace }): AsyncIterable<Encoded> {
      for (const record of matching(namespace, filters)) yield inFieldOne(record);
    },

    async create(request, { namespace }) {
      const container = Container.encode(given(request.container)).finish();
      return inFieldOne(await metadata.call('containers.create', { namespace, container }));
    },

    async update(request, { namespace }) {
      const container = Container.encode(given(request.container)).finish();
      const mask = request.updateMask ?? [];
      return inFieldOne(await metadata.call('containers.update', { namespace, container, mask }));
    },

    async delete({ id }, { namespace }) {
      await metadata.call('containers.delete', { namespace, id });
      return {};
    },
  });
}
