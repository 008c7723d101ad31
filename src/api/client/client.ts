// The client: one object for one daemon and one namespace.
import { dirname, join } from 'node:path';
import { codeOf } from '../model/errors.ts';
import {
  hostPlatform,
  matchAny,
  matchRunnable,
  matchStrict,
  type PlatformMatcher,
  parsePlatform,
} from '../model/platform.ts';
import type { Plugin, ServerResponse } from '../proto/gen/services/introspection/v1/introspection.ts';
import type { Namespace } from '../proto/gen/services/namespaces/v1/namespace.ts';
import type { VersionResponse } from '../proto/gen/services/version/v1/version.ts';
import type { ConvertImageOptions, ExportImagesOptions, ImportImagesOptions } from './archives.ts';
import { connect, type Services } from './connection.ts';
import {
  type Container,
  type Containers,
  type CreateContainerOptions,
  containersClient,
} from './container.ts';
import { type Content, contentClient } from './content.ts';
import { type Events, eventsClient } from './events.ts';
import { type Image, type Images, imagesClient } from './image.ts';
import { type ImageStatus, imagePlatforms, imageSizeBytes, imageStatus } from './image-status.ts';
import { type IoFactory, type Mkfifo, mkfifoProgram, type StreamIoOptions, streamIo } from './io.ts';
import { type Leases, leasesClient } from './leases.ts';
import { type Objects, objectsClient } from './objects.ts';
import { type PullOptions, pullContent } from './pull.ts';
import type { PushOptions } from './push.ts';
import { type Snapshots, snapshotsClient } from './snapshots.ts';
import type { CallOptions } from './stub.ts';
import { canTransfer, pullByTransfer } from './transfer-pull.ts';

export interface ClientOptions {
  /** Path of the daemon's socket, or a `unix://` URL. */
  address?: string;
  namespace?: string;
  /** `os[/arch[/variant]]`: whose images to pull and run; the host's unless said. */
  platform?: string;
  /** mkfifo(3); without it the program of that name is run. */
  mkfifo?: Mkfifo;
  /** Directory for the fifos of tasks; `fifo` beside the socket unless said. */
  fifoDirectory?: string;
}

export interface ClientPullOptions extends PullOptions {
  platform?: string;
  snapshotter?: string;
}

export interface ClientPushOptions extends Omit<PushOptions, 'platforms'> {
  /** `os[/arch[/variant]]` */
  platforms?: readonly string[];
}

/** What `containers.create` needs, with the namespace's defaults for snapshotter and runtime. */
export type NewContainer = Omit<CreateContainerOptions, 'snapshotter' | 'runtime'> & {
  snapshotter?: string | undefined;
  runtime?: string | undefined;
};

export interface Client extends Disposable {
  readonly address: string;
  readonly namespace: string;
  /** The stubs below, for what has no friendlier form yet. */
  readonly services: Services;
  readonly images: Images;
  readonly containers: Omit<Containers, 'create'>;
  readonly content: Content;
  /** Single objects of registries. */
  readonly objects: Objects;
  readonly leases: Leases;
  readonly events: Events;
  snapshots(snapshotter: string): Snapshots;
  namespaces(options?: CallOptions): Promise<Namespace[]>;
  version(options?: CallOptions): Promise<VersionResponse>;
  server(options?: CallOptions): Promise<ServerResponse>;
  plugins(filters?: readonly string[], options?: CallOptions): Promise<Plugin[]>;
  /** Fetches an image from its registry, unpacks it and names it. */
  pull(name: string, options?: ClientPullOptions): Promise<Image>;
  /** Sends an image to a registry, whatever is missing there. */
  push(reference: string, options?: ClientPushOptions): Promise<void>;
  /** Brings the images of an archive (OCI layout or docker, compressed or not) into the store, and unpacks them. */
  importImages(archive: AsyncIterable<Uint8Array>, options?: ImportImagesOptions): Promise<Image[]>;
  /** The bytes of an archive of images, which OCI and docker tools read. */
  exportImages(names: readonly string[], options?: ExportImagesOptions): AsyncIterable<Uint8Array>;
  /** Puts another form of an image under another name (or the same). */
  convertImage(source: string, destination: string, options?: ConvertImageOptions): Promise<Image>;
  /** How much of an image is here. */
  imageStatus(image: Image, options?: CallOptions): Promise<ImageStatus>;
  imageSizeBytes(image: Image, options?: CallOptions): Promise<number>;
  imagePlatforms(image: Image, options?: CallOptions): Promise<string[]>;
  /** The snapshotter of the namespace, where nobody says another. */
  defaultSnapshotter(options?: CallOptions): Promise<string>;
  createContainer(options: NewContainer): Promise<Container>;
  /** Streams for a task or exec; see `streamIo`. */
  streamIo(streams: StreamIoOptions): IoFactory;
}

export const addressDefault = '/run/troupe/troupe.sock';
export const namespaceDefault = 'default';
const snapshotterDefault = 'overlayfs';
const runtimeDefault = 'io.containerd.runc.v2';

/** Connects lazily: a daemon that is not there fails the first call with `unavailable`. */
export function createClient(options: ClientOptions = {}): Client {
  const connection = connect(options.address ?? addressDefault, options.namespace ?? namespaceDefault);
  const { services, namespace } = connection;
  const host = hostPlatform(process);
  const matcher = (platform: string | undefined): PlatformMatcher =>
    matchRunnable(platform === undefined ? host : parsePlatform(platform, host));
  const matches = matcher(options.platform);
  const leases = leasesClient(services);
  const images = imagesClient(services, matches);
  const containers = containersClient(services, namespace, leases);
  const archives = { services, images, leases };
  const anyOf = (platforms: readonly string[] | undefined): PlatformMatcher | undefined =>
    platforms === undefined || platforms.length === 0
      ? undefined
      : matchAny(platforms.map((text) => parsePlatform(text, host)));
  const mkfifo = options.mkfifo ?? mkfifoProgram;
  const directory = options.fifoDirectory ?? join(dirname(connection.address), 'fifo');

  /** A default that the namespace's labels may override. */
  async function namespaceSetting(name: string, fallback: string, signal?: AbortSignal): Promise<string> {
    try {
      const reply = await services.namespaces.get({ name: namespace }, { signal });
      return reply.namespace?.labels.get(`containerd.io/defaults/${name}`) ?? fallback;
    } catch (error) {
      if (codeOf(error) === 'not-found') return fallback;
      throw error;
    }
  }

  return {
    address: connection.address,
    namespace,
    services,
    images,
    containers,
    content: contentClient(services),
    objects: objectsClient(services),
    leases,
    events: eventsClient(services),
    snapshots: (snapshotter) => snapshotsClient(services, snapshotter),
    async namespaces(call) {
      return (await services.namespaces.list({ filter: '' }, call)).namespaces;
    },
    version: (call) => services.version.version({}, call),
    server: (call) => services.introspection.server({}, call),
    async plugins(filters = [], call) {
      return (await services.introspection.plugins({ filters: [...filters] }, call)).plugins;
    },
    async pull(name, pull = {}) {
      const { signal } = pull;
      const snapshotter =
        pull.snapshotter ?? (await namespaceSetting('snapshotter', snapshotterDefault, signal));
      const wanted = pull.platform === undefined ? matches : matcher(pull.platform);
      await using lease = await leases.acquire({ signal });
      if (canTransfer(pull)) {
        const platform = pull.platform ?? options.platform;
        const parsed = platform === undefined ? host : parsePlatform(platform, host);
        const done = await pullByTransfer(services, name, parsed, snapshotter, { ...pull, lease: lease.id });
        if (done) return await imagesClient(services, wanted).get(name, { signal });
      }
      const { target } = await pullContent(services, name, wanted, snapshotter, { ...pull, lease: lease.id });
      const { labels } = pull;
      const put = imagesClient(services, wanted).put(name, target, { signal, lease: lease.id, labels });
      return await put;
    },
    async push(reference, wanted = {}) {
      const { signal, source = reference, platforms = [] } = wanted;
      const { pushImage } = await import('./push.ts');
      const image = await images.get(source, { signal });
      await using lease = await leases.acquire({ signal });
      const parsed = platforms.map((text) => parsePlatform(text, host));
      await pushImage(services, reference, image, { ...wanted, platforms: parsed, lease: lease.id });
    },
    async importImages(archive, wanted = {}) {
      const { signal, platform } = wanted;
      const unpack = wanted.unpack ?? true;
      const snapshotter = unpack
        ? (wanted.snapshotter ?? (await namespaceSetting('snapshotter', snapshotterDefault, signal)))
        : undefined;
      const fits = platform === undefined ? matches : matcher(platform);
      const own = { ...archives, images: imagesClient(services, fits) };
      const { importImages } = await import('./archives.ts');
      return importImages(own, archive, wanted.allPlatforms === true ? undefined : fits, snapshotter, wanted);
    },
    async *exportImages(names, wanted = {}) {
      const { exportArchive } = await import('./archives.ts');
      yield* exportArchive(archives, names, anyOf(wanted.platforms) ?? matchStrict(host), wanted);
    },
    async convertImage(source, destination, wanted = {}) {
      const { convertTo } = await import('./archives.ts');
      const fits = wanted.allPlatforms === true ? undefined : (anyOf(wanted.platforms) ?? matches);
      return convertTo(archives, source, destination, fits, wanted);
    },
    imageStatus: (image, call = {}) => imageStatus(services, image, matches, call),
    imageSizeBytes: (image, call = {}) => imageSizeBytes(services, image, matches, call),
    imagePlatforms: (image, call = {}) => imagePlatforms(services, image, call),
    defaultSnapshotter: (call) => namespaceSetting('snapshotter', snapshotterDefault, call?.signal),
    async createContainer({ signal, ...wanted }) {
      return containers.create({
        ...wanted,
        signal,
        snapshotter:
          wanted.snapshotter ?? (await namespaceSetting('snapshotter', snapshotterDefault, signal)),
        runtime: wanted.runtime ?? (await namespaceSetting('runtime', runtimeDefault, signal)),
      });
    },
    streamIo: (streams) => streamIo(streams, { directory, mkfifo }),
    [Symbol.dispose]: () => connection[Symbol.dispose](),
  };
}
