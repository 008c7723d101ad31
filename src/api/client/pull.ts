// Pulling: resolve, fetch into the content store, unpack, and only then the image record; all under one lease.
import { createHash } from 'node:crypto';
import {
  type Credentials,
  type CredentialsSource,
  defaultHosts,
  type Hosts,
} from '../../io/registry/hosts.ts';
import { hostWithoutPort, type Reference } from '../../io/registry/reference.ts';
import type { Registry } from '../../io/registry/registry.ts';
import { codeOf, fail } from '../model/errors.ts';
import { digestAlgorithm } from '../model/ids.ts';
import { childLabels, chooseManifest, documentBytesMax, loadConfig } from '../model/image-tree.ts';
import { label, labelBytesMax } from '../model/labels.ts';
import { limiter } from '../model/limiter.ts';
import { type BlobKind, blobKind, type LinkedDescriptor } from '../model/oci.ts';
import type { PlatformMatcher } from '../model/platform.ts';
import type { Services } from './connection.ts';
import { contentClient } from './content.ts';
import type { CallOptions } from './stub.ts';
import { unpackLayers } from './unpack.ts';

export interface PullProgress {
  digest: string;
  kind: BlobKind;
  status: 'waiting' | 'downloading' | 'downloaded' | 'exists' | 'extracting' | 'extracted';
  offsetBytes: number;
  totalBytes: number;
}

export interface PullOptions {
  signal?: AbortSignal | undefined;
  /** Plain http for every registry host. */
  plainHttp?: boolean;
  insecureTls?: boolean;
  auth?: Credentials | CredentialsSource;
  hosts?: Hosts;
  /** A directory of hosts.toml files. */
  hostsDirectory?: string;
  /** In place of a registry made from the options above. */
  registry?: Registry;
  onProgress?: (progress: PullProgress) => void;
  /** True unless said. */
  unpack?: boolean;
  maxConcurrentDownloads?: number;
  labels?: ReadonlyMap<string, string>;
}

export interface PulledImage {
  name: string;
  target: LinkedDescriptor;
}

const concurrentDownloadsDefault = 3;

/** Fetches an image and unpacks it; makes no image record. */
export async function pullContent(
  services: Services,
  name: string,
  matches: PlatformMatcher,
  snapshotter: string,
  options: PullOptions & { lease: string },
): Promise<PulledImage> {
  const { auth } = options;
  // Loaded when it is first needed: most programs and commands never speak to a registry.
  const { createRegistry } = await import('../../io/registry/registry.ts');
  const made =
    options.registry === undefined
      ? createRegistry({
          hosts:
            options.hosts ??
            (await hostsOf(name, options)) ??
            defaultHosts({
              plainHttp: options.plainHttp ?? false,
              insecureTls: options.insecureTls ?? false,
            }),
          credentials: typeof auth === 'object' ? () => auth : auth,
        })
      : undefined;
  const registry = options.registry ?? made!;
  const stop = new AbortController();
  const signal = options.signal === undefined ? stop.signal : AbortSignal.any([options.signal, stop.signal]);
  try {
    const { reference, target } = await registry.resolve(name, { signal });
    const fetcher = createFetcher(services, registry, reference, { ...options, signal });
    const { manifest } = await chooseManifest(target, matches, fetcher.document);
    const config = await loadConfig(manifest, fetcher.document);
    const limit = limiter(options.maxConcurrentDownloads ?? concurrentDownloadsDefault);
    const started = new Map<string, Promise<void>>();
    const fetchFrom = (first: number): void => {
      for (const layer of manifest.layers.slice(first)) {
        if (started.has(layer.digest)) continue;
        fetcher.tell(layer, 'waiting', 0n);
        const done = limit(() => fetcher.blob(layer));
        // The unpacker may not have come to this layer when it fails; it will hear of it then.
        done.catch(() => {});
        started.set(layer.digest, done);
      }
    };
    if (options.unpack ?? true) {
      await unpackLayers(services, {
        ...{ snapshotter, config: manifest.config, layers: manifest.layers, diffIds: config.diffIds },
        ...{ signal, lease: options.lease },
        layerReady: async (i) => {
          fetchFrom(i);
          await started.get(manifest.layers[i]!.digest);
        },
        onLayer: (layer, status) => fetcher.tell(layer, status, layer.size),
      });
    } else {
      fetchFrom(0);
    }
    await Promise.all(started.values());
    return { name, target };
  } finally {
    // Downloads that nobody waits for any more end with the pull.
    stop.abort();
    await made?.[Symbol.asyncDispose]();
  }
}

async function hostsOf(name: string, options: PullOptions): Promise<Hosts | undefined> {
  const { hostsDirectory } = options;
  if (hostsDirectory === undefined) return undefined;
  const { hostsIn } = await import('../../io/registry/hosts-toml.ts');
  return hostsIn(hostsDirectory, {
    reference: name,
    defaultScheme: options.plainHttp === true ? 'http' : undefined,
    insecureTls: options.insecureTls,
  });
}

interface Fetcher {
  document(descriptor: LinkedDescriptor): Promise<Uint8Array>;
  blob(descriptor: LinkedDescriptor): Promise<void>;
  tell(descriptor: LinkedDescriptor, status: PullProgress['status'], offset: bigint): void;
}

function createFetcher(
  services: Services,
  registry: Registry,
  reference: Reference,
  options: PullOptions & CallOptions,
): Fetcher {
  const content = contentClient(services);
  const { signal, lease } = options;
  const sourceKey = `${label.distributionSource}${hostWithoutPort(reference.host)}`;

  function tell(descriptor: LinkedDescriptor, status: PullProgress['status'], offset: bigint): void {
    options.onProgress?.({
      digest: descriptor.digest,
      kind: blobKind(descriptor.mediaType),
      status,
      offsetBytes: Number(offset),
      totalBytes: Number(descriptor.size),
    });
  }

  /** Labels that the store does not have yet; the repositories of a source are joined. */
  async function addLabels(digest: string, wanted: ReadonlyMap<string, string>): Promise<void> {
    const { labels } = await content.info(digest, { signal, lease });
    const missing = new Map([...wanted].filter(([key, value]) => labels.get(key) !== value));
    const source = labels.get(sourceKey);
    if (source !== undefined && missing.has(sourceKey)) {
      const joined = [...new Set([...source.split(','), reference.repository])].sort().join(',');
      if (joined === source || sourceKey.length + joined.length > labelBytesMax) missing.delete(sourceKey);
      else missing.set(sourceKey, joined);
    }
    if (missing.size > 0) await content.setLabels(digest, missing, { signal, lease });
  }

  async function ingest(
    descriptor: LinkedDescriptor,
    labels: ReadonlyMap<string, string>,
    source: (offsetBytes: number) => AsyncIterable<Uint8Array>,
  ): Promise<void> {
    if (descriptor.size === 0n) throw fail('invalid-argument', `${descriptor.digest}: a blob of no bytes`);
    const outcome = await content.ingest({
      ref: `${blobKind(descriptor.mediaType)}-${descriptor.digest}`,
      expected: descriptor.digest,
      sizeBytes: descriptor.size,
      labels,
      source,
      onProgress: (offset) => tell(descriptor, 'downloading', offset),
      ...{ signal, lease },
    });
    if (outcome === 'exists') await addLabels(descriptor.digest, labels);
    tell(descriptor, outcome === 'exists' ? 'exists' : 'downloaded', descriptor.size);
  }

  const fetch = (descriptor: LinkedDescriptor, offsetBytes: number): AsyncIterable<Uint8Array> =>
    registry.fetch(reference, descriptor, { offsetBytes, signal });

  const sourceLabel = new Map([[sourceKey, reference.repository]]);

  return {
    tell,
    blob: (descriptor) => ingest(descriptor, sourceLabel, (offset) => fetch(descriptor, offset)),

    // Documents are read before they are stored, so that they are committed with the labels of their children.
    async document(descriptor) {
      if (descriptor.size > BigInt(documentBytesMax)) {
        throw fail('resource-exhausted', `${descriptor.digest} is over ${documentBytesMax} bytes`);
      }
      let bytes = await content
        .readAll(descriptor.digest, documentBytesMax, { signal, lease })
        .catch((error: unknown) => {
          if (codeOf(error) === 'not-found') return undefined;
          throw error;
        });
      if (bytes === undefined) {
        const chunks: Uint8Array[] = [];
        for await (const chunk of fetch(descriptor, 0)) chunks.push(chunk);
        bytes = Buffer.concat(chunks);
        const algorithm = digestAlgorithm(descriptor.digest);
        const digest = `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
        if (digest !== descriptor.digest) {
          throw fail(
            'failed-precondition',
            `${descriptor.digest}: the registry sends bytes with digest ${digest}`,
          );
        }
      }
      const name = `${blobKind(descriptor.mediaType)} ${descriptor.digest}`;
      const labels = new Map([...childLabels(descriptor.mediaType, bytes, name), ...sourceLabel]);
      await ingest(descriptor, labels, async function* (offset) {
        yield bytes.subarray(offset);
      });
      return bytes;
    },
  };
}
