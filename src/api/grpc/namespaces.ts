// The Namespaces service.
import { fail } from '../model/errors.ts';
import { Namespace, NamespacesDefinition } from '../proto/gen/services/namespaces/v1/namespace.ts';
import { type BoundService, bindService } from './bind.ts';
import type { MetadataDeps } from './deps.ts';

function given(namespace: Namespace | undefined): Namespace {
  if (namespace === undefined) throw fail('invalid-argument', 'the request has no namespace');
  return namespace;
}

export function namespacesService({ metadata, reader }: MetadataDeps): BoundService {
  return bindService(
    NamespacesDefinition,
    {
      // An unknown name answers as one without labels: namespaces appear with their first object.
      get({ name }) {
        const stored = reader.namespace(name);
        const namespace = stored === undefined ? Namespace.create({ name }) : Namespace.decode(stored);
        return { namespace };
      },

      list: () => ({ namespaces: reader.namespaces().map((bytes) => Namespace.decode(bytes)) }),

      async create(request) {
        const namespace = given(request.namespace);
        await metadata.call('namespaces.create', { name: namespace.name, labels: namespace.labels });
        return { namespace };
      },

      async update(request) {
        const { name, labels } = given(request.namespace);
        await metadata.call('namespaces.update', { name, labels, mask: request.updateMask ?? [] });
        return { namespace: undefined };
      },

      async delete({ name }) {
        await metadata.call('namespaces.delete', { name });
        return {};
      },
    },
    { namespace: 'none' },
  );
}
