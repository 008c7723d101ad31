// Image records and what they lead to: manifest, config, size, and the snapshots that a container starts from.
import { codeOf, fail } from '../model/errors.ts';
import { parseDigest } from '../model/ids.ts';
import { chooseManifest, documentBytesMax, loadConfig, type ResolvedManifest } from '../model/image-tree.ts';
import { chainIds, type ImageConfig, type ImageManifest, type LinkedDescriptor } from '../model/oci.ts';
import type { PlatformMatcher } from '../model/platform.ts';
import type { Image as ImageRecord } from '../proto/gen/services/images/v1/images.ts';
import type { Descriptor } from '../proto/gen/types/descriptor.ts';
import type { Services } from './connection.ts';
import { contentClient } from './content.ts';
import { snapshotsClient } from './snapshots.ts';
import type { CallOptions } from './stub.ts';
import { unpackLayers } from './unpack.ts';

export interface Image {
  readonly name: string;
  readonly record: ImageRecord;
  readonly target: LinkedDescriptor;
  /** The manifest for this client's platform. Throws `not-found` when the image has none, or it was not fetched. */
  manifest(options?: CallOptions): Promise<ImageManifest>;
  config(options?: CallOptions): Promise<ImageConfig>;
  /** Chain ID of all layers: the snapshot that containers start from; empty for an image without layers. */
  chainId(options?: CallOptions): Promise<string>;
  /** Bytes of manifest, config and layers as they are stored. */
  sizeBytes(options?: CallOptions): Promise<number>;
  isUnpacked(snapshotter: string, options?: CallOptions): Promise<boolean>;
  /** Resolves with the chain ID. */
  unpack(snapshotter: string, options?: CallOptions): Promise<string>;
}

export interface Images {
  get(name: string, options?: CallOptions): Promise<Image>;
  list(filters?: readonly string[], options?: CallOptions): Promise<Image[]>;
  /** Creates the record, or points an existing one at `target`. */
  put(
    name: string,
    target: Descriptor,
    options?: CallOptions & { labels?: ReadonlyMap<string, string> | undefined },
  ): Promise<Image>;
  /** `sync` waits until what only this image kept has been collected. */
  delete(name: string, options?: CallOptions & { sync?: boolean }): Promise<void>;
}

const putTriesMax = 5;

export function imagesClient(services: Services, matches: PlatformMatcher): Images {
  const { images } = services;
  const make = (record: ImageRecord | undefined): Image => makeImage(services, matches, record);
  return {
    async get(name, options) {
      return make((await images.get({ name }, options)).image);
    },
    async list(filters = [], options) {
      return (await images.list({ filters: [...filters] }, options)).images.map(make);
    },
    async put(name, { mediaType, digest, size, annotations }, { labels = new Map(), ...options } = {}) {
      const image = { name, target: { mediaType, digest, size, annotations }, labels: new Map(labels) };
      for (let tries = 1; ; tries++) {
        try {
          return make((await images.create({ image }, options)).image);
        } catch (error) {
          if (codeOf(error) !== 'already-exists') throw error;
        }
        try {
          const updateMask = ['target', ...[...labels.keys()].map((key) => `labels.${key}`)];
          return make((await images.update({ image, updateMask }, options)).image);
        } catch (error) {
          // Deleted between the two calls.
          if (codeOf(error) !== 'not-found' || tries >= putTriesMax) throw error;
        }
      }
    },
    async delete(name, { sync = false, ...options } = {}) {
      await images.delete({ name, sync }, options);
    },
  };
}

function makeImage(services: Services, matches: PlatformMatcher, record: ImageRecord | undefined): Image {
  if (record?.target === undefined) throw fail('internal', 'the server answers with an image without target');
  const content = contentClient(services);
  const { mediaType, digest, size, annotations } = record.target;
  const target: LinkedDescriptor = { mediaType, digest: parseDigest(digest), size, annotations, urls: [] };
  let resolved: Promise<ResolvedManifest> | undefined;

  const loadWith = (options?: CallOptions) => (descriptor: LinkedDescriptor) =>
    content.readAll(descriptor.digest, documentBytesMax, options);

  function resolve(options?: CallOptions): Promise<ResolvedManifest> {
    resolved ??= chooseManifest(target, matches, loadWith(options));
    // A failure is not kept: what was missing may have been fetched by the next time.
    resolved.catch(() => {
      resolved = undefined;
    });
    return resolved;
  }

  const self: Image = {
    name: record.name,
    record,
    target,
    async manifest(options) {
      return (await resolve(options)).manifest;
    },
    async config(options) {
      return await loadConfig((await resolve(options)).manifest, loadWith(options));
    },
    async chainId(options) {
      return chainIds((await self.config(options)).diffIds).at(-1) ?? '';
    },
    async sizeBytes(options) {
      const { descriptor, manifest } = await resolve(options);
      const all = [descriptor, manifest.config, ...manifest.layers];
      return all.reduce((sum, one) => sum + Number(one.size), 0);
    },
    async isUnpacked(snapshotter, options) {
      const top = await self.chainId(options);
      if (top === '') return true;
      try {
        await snapshotsClient(services, snapshotter).stat(top, options);
        return true;
      } catch (error) {
        if (codeOf(error) === 'not-found') return false;
        throw error;
      }
    },
    async unpack(snapshotter, options) {
      const { manifest } = await resolve(options);
      const { diffIds } = await self.config(options);
      return unpackLayers(services, {
        ...{ snapshotter, config: manifest.config, layers: manifest.layers, diffIds },
        ...options,
      });
    },
  };
  return self;
}
