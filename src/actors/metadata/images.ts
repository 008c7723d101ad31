// Image records: names for content.
import { encodeMessage } from '../../api/model/encode.ts';
import { fail } from '../../api/model/errors.ts';
import { mergeLabel, parseMask } from '../../api/model/fieldmask.ts';
import { parseDigest } from '../../api/model/ids.ts';
import { checkLabels, dropEmpty, label } from '../../api/model/labels.ts';
import { nsOfTimestamp, timestampOfNs } from '../../api/model/time.ts';
import { ImageCreate, ImageDelete, ImageUpdate } from '../../api/proto/gen/events/image.ts';
import type { Timestamp } from '../../api/proto/gen/google/protobuf/timestamp.ts';
import { Image } from '../../api/proto/gen/services/images/v1/images.ts';
import { Descriptor } from '../../api/proto/gen/types/descriptor.ts';
import { leaseAdd, leaseRemove } from './leases.ts';
import { touchNamespace } from './namespaces.ts';
import { checkName, keyOf, type MetadataStoreReader, rangeOf, values } from './schema.ts';
import type { WriteTxn } from './txn.ts';

export interface ImagesProtocol {
  /** `image` is an encoded Image; so is the reply, as stored. */
  'images.create': {
    request: {
      namespace: string;
      lease: string | undefined;
      image: Uint8Array;
      epoch: Timestamp | undefined;
    };
    reply: Uint8Array;
  };
  'images.update': {
    request: {
      namespace: string;
      lease: string | undefined;
      image: Uint8Array;
      mask: string[];
      epoch: Timestamp | undefined;
    };
    reply: Uint8Array;
  };
  /** With `targetDigest`, only an image whose target it is. */
  'images.delete': {
    request: { namespace: string; lease: string | undefined; name: string; targetDigest: string };
    reply: void;
  };
}

function check(image: Image): void {
  checkName(image.name, 'image name');
  checkLabels(image.labels);
  const { target } = image;
  if (target === undefined) throw fail('invalid-argument', `image "${image.name}" has no target`);
  try {
    parseDigest(target.digest);
  } catch (error) {
    throw fail('invalid-argument', `image "${image.name}": invalid target digest "${target.digest}"`, error);
  }
  if (target.size <= 0n)
    throw fail('invalid-argument', `image "${image.name}": target size must be above zero`);
  if (target.mediaType === '')
    throw fail('invalid-argument', `image "${image.name}": target has no media type`);
}

/** The four fields of a target that are stored; annotations lose their empty values. */
function targetOf(target: Descriptor | undefined): Descriptor | undefined {
  if (target === undefined) return undefined;
  const { mediaType, digest, size, annotations } = target;
  return { mediaType, digest, size, annotations: dropEmpty(annotations) };
}

function leaseIfExpiring(txn: WriteTxn, namespace: string, lease: string | undefined, image: Image): void {
  if (image.labels.has(label.gcExpire)) leaseAdd(txn, namespace, lease, { type: 'images', id: image.name });
}

function emit(txn: WriteTxn, namespace: string, verb: 'create' | 'update', image: Image): void {
  const codec = verb === 'create' ? ImageCreate : ImageUpdate;
  const type = verb === 'create' ? 'ImageCreate' : 'ImageUpdate';
  const value = codec.encode({ name: image.name, labels: image.labels }).finish();
  txn.emit(namespace, `/images/${verb}`, `containerd.services.images.v1.${type}`, value);
}

export const imageOps = {
  'images.create'(txn: WriteTxn, request: ImagesProtocol['images.create']['request']): Uint8Array {
    const { namespace, lease, epoch } = request;
    const image = Image.decode(request.image);
    check(image);
    const key = keyOf(namespace, image.name);
    if (txn.get('images', key) !== undefined) throw fail('already-exists', `image "${image.name}"`);
    image.labels = dropEmpty(image.labels);
    image.target = targetOf(image.target);
    image.createdAt = image.updatedAt = epoch ?? timestampOfNs(txn.nowNs());
    touchNamespace(txn, namespace);
    leaseIfExpiring(txn, namespace, lease, image);
    const record = encodeMessage(Image, image);
    txn.put('images', key, record);
    emit(txn, namespace, 'create', image);
    return record;
  },

  'images.update'(txn: WriteTxn, request: ImagesProtocol['images.update']['request']): Uint8Array {
    const { namespace, lease, mask, epoch } = request;
    const supplied = Image.decode(request.image);
    checkName(supplied.name, 'image name');
    const key = keyOf(namespace, supplied.name);
    const bytes = txn.get('images', key);
    if (bytes === undefined) throw fail('not-found', `image "${supplied.name}"`);
    const stored = Image.decode(bytes);
    if (mask.length === 0) {
      stored.labels = dropEmpty(supplied.labels);
      stored.target = targetOf(supplied.target);
    } else applyMask(stored, supplied, mask);
    check(stored);
    const createdNs = stored.createdAt === undefined ? 0n : nsOfTimestamp(stored.createdAt);
    const nowNs = txn.nowNs();
    stored.updatedAt = epoch ?? timestampOfNs(nowNs > createdNs ? nowNs : createdNs + 1n);
    leaseIfExpiring(txn, namespace, lease, stored);
    const record = encodeMessage(Image, stored);
    txn.put('images', key, record);
    emit(txn, namespace, 'update', stored);
    return record;
  },

  'images.delete'(txn: WriteTxn, request: ImagesProtocol['images.delete']['request']) {
    const { namespace, lease, name, targetDigest } = request;
    const key = keyOf(namespace, name);
    const bytes = txn.get('images', key);
    if (bytes === undefined) throw fail('not-found', `image "${name}"`);
    if (targetDigest !== '' && Image.decode(bytes).target?.digest !== targetDigest) {
      throw fail('not-found', `image "${name}" does not have target ${targetDigest}`);
    }
    leaseRemove(txn, namespace, lease, { type: 'images', id: name });
    txn.delete('images', key);
    txn.emit(
      namespace,
      '/images/delete',
      'containerd.services.images.v1.ImageDelete',
      encodeMessage(ImageDelete, { name }),
    );
  },
};

function applyMask(stored: Image, supplied: Image, mask: string[]): void {
  const paths = parseMask(mask, { kind: 'image', scalars: ['target'], maps: ['labels', 'annotations'] });
  for (const { field, key } of paths) {
    if (field === 'labels') {
      if (key === undefined) stored.labels = dropEmpty(supplied.labels);
      else mergeLabel(stored.labels, supplied.labels, key);
    } else if (field === 'annotations') {
      stored.target ??= Descriptor.create();
      const from = supplied.target?.annotations ?? new Map<string, string>();
      if (key === undefined) stored.target.annotations = dropEmpty(from);
      else mergeLabel(stored.target.annotations, from, key);
    } else stored.target = targetOf(supplied.target);
  }
}

export interface ImagesReads {
  /** The stored bytes of an Image. */
  image(namespace: string, name: string): Uint8Array | undefined;
  /** The stored bytes of each Image of a namespace, in order of name. */
  images(namespace: string): Uint8Array[];
}

export function imagesReads(store: MetadataStoreReader): ImagesReads {
  return {
    image: (namespace, name) => store.read((txn) => txn.get('images', keyOf(namespace, name))),
    images: (namespace) => store.read((txn) => values(txn, 'images', rangeOf(namespace))),
  };
}
