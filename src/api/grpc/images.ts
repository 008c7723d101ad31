// The Images service.
import { fail } from '../model/errors.ts';
import { compileStoreFilters, type FieldLookup, mapEntry, nonEmpty } from '../model/filter.ts';
import { Image, ImagesDefinition } from '../proto/gen/services/images/v1/images.ts';
import { type BoundService, bindService } from './bind.ts';
import type { Collect, MetadataDeps } from './deps.ts';
import { inFieldOne, listInFieldOne } from './records.ts';

function lookup(image: Image): FieldLookup {
  return (path) => {
    switch (path[0]) {
      case 'name':
        return path.length === 1 ? nonEmpty(image.name) : undefined;
      case 'target':
        if (path.length !== 2) return undefined;
        if (path[1] === 'digest') return nonEmpty(image.target?.digest ?? '');
        return path[1] === 'mediatype' ? nonEmpty(image.target?.mediaType ?? '') : undefined;
      case 'labels':
        return mapEntry(image.labels, path);
      case 'annotations':
        return mapEntry(image.target?.annotations ?? new Map(), path);
      default:
        return undefined;
    }
  };
}

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
          : [...names].sort().flatMap((name) => (name === '' ? [] : (reader.image(namespace, name) ?? [])));
      const kept = filter.all
        ? records
        : records.filter((bytes) => filter.matches(lookup(Image.decode(bytes))));
      return listInFieldOne(kept);
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
