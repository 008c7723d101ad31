// Pushing: by the daemon where it has transfers, else from here over the content that it serves.
import { packAny } from '../model/binary-stream.ts';
import { fail } from '../model/errors.ts';
import { documentBytesMax, ranked, walkImage } from '../model/image-tree.ts';
import { label } from '../model/labels.ts';
import { limiter } from '../model/limiter.ts';
import { blobKind, isNonDistributable, type LinkedDescriptor } from '../model/oci.ts';
import { matchAny } from '../model/platform.ts';
import type { Credentials, CredentialsSource } from '../model/ports/registry.ts';
import type { Platform } from '../proto/gen/types/platform.ts';
import { ImageStore } from '../proto/gen/types/transfer/imagestore.ts';
import { OCIRegistry } from '../proto/gen/types/transfer/registry.ts';
import type { Services } from './connection.ts';
import { contentClient } from './content.ts';
import type { PullProgress } from './pull.ts';
import { credentialsStream, progressStream } from './streams.ts';
import { isWithoutTransfers, teller } from './transfer-pull.ts';

export interface PushProgress extends Omit<PullProgress, 'status'> {
  status: 'waiting' | 'uploading' | 'uploaded' | 'exists';
}

export interface PushOptions {
  signal?: AbortSignal | undefined;
  /** Of the image in the store, when it is not the reference to push to. */
  source?: string | undefined;
  /** Manifests of these platforms; all unless said. */
  platforms?: readonly Platform[];
  plainHttp?: boolean;
  insecureTls?: boolean;
  auth?: Credentials | CredentialsSource | undefined;
  onProgress?: (progress: PushProgress) => void;
  maxConcurrentUploads?: number;
}

const concurrentUploadsDefault = 3;

/** Throws `not-found` for an image or a part of it that is not here. */
export async function pushImage(
  services: Services,
  reference: string,
  image: { name: string; target: LinkedDescriptor },
  options: PushOptions & { lease: string },
): Promise<void> {
  const source = typeof options.auth === 'object' ? () => options.auth as Credentials : options.auth;
  if (options.insecureTls !== true) {
    try {
      await pushByTransfer(services, reference, image.name, source, options);
      return;
    } catch (error) {
      if (!isWithoutTransfers(error)) throw error;
    }
  }
  await pushFromHere(services, reference, image.target, source, options);
}

async function pushByTransfer(
  services: Services,
  reference: string,
  name: string,
  source: CredentialsSource | undefined,
  { onProgress, signal, lease, plainHttp, platforms = [] }: PushOptions & { lease: string },
): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const progress =
    onProgress === undefined
      ? undefined
      : stack.use(
          await progressStream(
            services,
            teller((one) => onProgress(uploadOf(one))),
          ),
        );
  const creds = source === undefined ? undefined : stack.use(await credentialsStream(services, source));
  const resolver = { authStream: creds?.id ?? '', defaultScheme: plainHttp === true ? 'http' : '' };
  await services.transfer.transfer(
    {
      source: packAny(ImageStore, ImageStore.fromPartial({ name, platforms: [...platforms] })),
      destination: packAny(OCIRegistry, OCIRegistry.fromPartial({ reference, resolver })),
      options: { progressStream: progress?.id ?? '' },
    },
    { signal, lease, deadlineMs: Number.POSITIVE_INFINITY },
  );
  await progress?.finish();
}

function uploadOf({ status, ...one }: PullProgress): PushProgress {
  if (status === 'waiting' || status === 'exists') return { ...one, status };
  return { ...one, status: status === 'downloaded' ? 'uploaded' : 'uploading' };
}

async function pushFromHere(
  services: Services,
  reference: string,
  target: LinkedDescriptor,
  credentials: CredentialsSource | undefined,
  options: PushOptions & { lease: string },
): Promise<void> {
  const [{ registryOpener }, { createTransport }] = await Promise.all([
    import('../../io/registry/connection.ts'),
    import('../../io/registry/transport.ts'),
  ]);
  await using transport = createTransport();
  await using to = registryOpener({ transport, userAgent: 'troupe' })({
    reference,
    insecureTls: options.insecureTls,
    defaultScheme: options.plainHttp === true ? 'http' : undefined,
    credentials,
  });
  const { signal, lease } = options;
  const content = contentClient(services);
  const call = { signal, lease };
  const matches = options.platforms?.length ? matchAny(options.platforms) : undefined;
  const blobs: LinkedDescriptor[] = [];
  const manifests: LinkedDescriptor[] = [];
  const indexes: LinkedDescriptor[] = [];
  await walkImage(target, {
    load: ({ digest }) => content.readAll(digest, documentBytesMax, call),
    choose(parent, children) {
      if (blobKind(parent.mediaType) !== 'index' || matches === undefined) return children;
      const wanted = ranked(children, matches);
      if (wanted.length > 0) return wanted;
      throw fail('not-found', `index ${parent.digest} has no manifest for the wanted platform`);
    },
    onDocument: ({ descriptor }) =>
      void (blobKind(descriptor.mediaType) === 'index' ? indexes : manifests).push(descriptor),
    onBlob: (descriptor) => void (isNonDistributable(descriptor.mediaType) || blobs.push(descriptor)),
  });
  const limit = limiter(options.maxConcurrentUploads ?? concurrentUploadsDefault);

  async function send(descriptor: LinkedDescriptor): Promise<void> {
    const { digest, mediaType, size } = descriptor;
    const tell = (status: PushProgress['status'], offsetBytes: number): void =>
      options.onProgress?.({
        ...{ digest, status, offsetBytes },
        kind: blobKind(mediaType),
        totalBytes: Number(size),
      });
    const { labels } = await content.info(digest, call);
    const outcome = await to.push(descriptor, (offset) => content.read(digest, BigInt(offset), call), {
      signal,
      top: digest === target.digest,
      mountFrom: labels.get(`${label.distributionSource}${to.host}`)?.split(',') ?? [],
      onProgress: (offset) => tell('uploading', offset),
    });
    tell(outcome === 'exists' ? 'exists' : 'uploaded', Number(size));
  }

  await Promise.all(blobs.map((blob) => limit(() => send(blob))));
  await Promise.all(manifests.map((manifest) => limit(() => send(manifest))));
  for (const index of indexes.toReversed()) await send(index);
}
