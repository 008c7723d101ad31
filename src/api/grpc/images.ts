// The Images service.
import { fail } from '../model/errors.ts';
import { compileStoreFilters } from '../model/filter.ts';
import type { FieldPlaces } from '../model/wire-fields.ts';
import { Image, ImagesDefinition } from '../proto/gen/services/images/v1/images.ts';
import { type BoundService, bindService } from './bind.ts';
import type { Collect, MetadataDeps } from './deps.ts';
import { byBytes, inFieldOne, listInFieldOne, recordsMatching } from './records.ts';

const places: FieldPlaces = {
  name: { kind: 'string', at: [1] },
  labels: { kind: 'map', at: [2] },
  'target.mediatype': { kind: 'string', at: [3, 1] },
  'target.digest': { kind: 'string', at: [3, 2] },
  annotations: { kind: 'map', at: [3, 5] },
};

function given(image: Image | undefined): Image {
  if (image === undefined) throw fail('invalid-argument', 'the request has no image');
  return image;
}

export function imagesService({
  metadata,
  reader,
  collect,
}: MetadataDeps & { collect: Collect }): BoundService {
  return bindService(ImagesDefinition, {
    get({ name }, { namespace }) {
      const record = name === '' ? undefined : reader.image(namespace, name);
      if (record === undefined) throw fail('not-found', `image "${name}"`);
      return inFieldOne(record);
    },

    list({ filters }, { namespace }) {
      const filter = compileStoreFilters(filters);
      const names = filter.exact('name');
      const records =
        names === undefined
          ? reader.images(namespace)
          : [...names]
              .sort(byBytes)
              .flatMap((name) => (name === '' ? [] : (reader.image(namespace, name) ?? [])));
      return listInFieldOne(recordsMatching(records, filter, places));
    },

    async create(request, { namespace, lease }) {
      const image = Image.encode(given(request.image)).finish();
      const epoch = request.sourceDateEpoch;
      return inFieldOne(await metadata.call('images.create', { namespace, lease, image, epoch }));
    },

    async update(request, { namespace, lease }) {
      const image = Image.encode(given(request.image)).finish();
      const mask = request.updateMask ?? [];
      const epoch = request.sourceDateEpoch;
      return inFieldOne(await metadata.call('images.update', { namespace, lease, image, mask, epoch }));
    },

    async delete({ name, sync, target }, { namespace, lease, signal }) {
      const targetDigest = target?.digest ?? '';
      await metadata.call('images.delete', { namespace, lease, name, targetDigest });
      if (sync) await collect(signal);
      return {};
    },
  });
}
