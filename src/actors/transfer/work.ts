// What a transfer does: each pair of source and destination over the ports of the daemon.
import { receiveBytes, sendBytes } from '../../api/model/binary-stream.ts';
import { fail } from '../../api/model/errors.ts';
import { parseDigest } from '../../api/model/ids.ts';
import { label } from '../../api/model/labels.ts';
import type { LinkedDescriptor } from '../../api/model/oci.ts';
import { matchAny, matchStrict, type PlatformMatcher } from '../../api/model/platform.ts';
import type { ImageEngine } from '../../api/model/ports/image-engine.ts';
import type { Log } from '../../api/model/ports/log.ts';
import type { RegistryConnection } from '../../api/model/ports/registry.ts';
import { type Clock, formatRfc3339, timestampOfNs } from '../../api/model/time.ts';
import { Image } from '../../api/proto/gen/services/images/v1/images.ts';
import { Lease } from '../../api/proto/gen/services/leases/v1/leases.ts';
import type { Platform } from '../../api/proto/gen/types/platform.ts';
import type { ImageStore } from '../../api/proto/gen/types/transfer/imagestore.ts';
import { HTTPDebug, type OCIRegistry } from '../../api/proto/gen/types/transfer/registry.ts';
import type { Distribution } from '../distribution/protocol.ts';
import type { Stream, Streams } from '../streaming/protocol.ts';
import { type StoreDeps, storeContent } from './content.ts';
import { credentialsOver, linesOver } from './credentials.ts';
import { ProgressReporter } from './progress.ts';
import type { TransferJob, TransferRequest } from './protocol.ts';
import { recordImages } from './records.ts';
import { chooseUnpack, type UnpackChoice } from './unpack.ts';

/** Judges an image before anything of it is fetched; throws `permission-denied` with the reason. */
export type VerifyImage = (name: string, target: LinkedDescriptor, signal: AbortSignal) => Promise<void>;

export interface TransferDeps extends StoreDeps {
  readonly streams: Streams;
  readonly engine: ImageEngine;
  readonly distribution: Distribution;
  readonly verify: VerifyImage;
  readonly clock: Clock;
  readonly log: Log;
  /** The platform of this machine. */
  readonly platform: Platform;
  readonly unpack: readonly UnpackChoice[];
  readonly concurrentDownloadsMax: number;
  /** Bytes of one request when a large layer is fetched in several; 0 for one. */
  readonly layerRangeBytes: number;
  readonly concurrentUploadsMax: number;
  /** Layers that are unpacked while they come; undefined for as many as come at a time. */
  readonly concurrentUnpacksMax?: number | undefined;
}

const leaseMs = 24 * 60 * 60 * 1000;

export function createTransferWork(deps: TransferDeps, request: TransferRequest) {
  return async (signal: AbortSignal): Promise<void> => {
    const { job, namespace } = request;
    await using stack = new AsyncDisposableStack();
    const open = (id: string): Stream => {
      const stream = deps.streams.get(namespace, id);
      // Who waits for the client's next message must hear that nobody wants it any more.
      const stop = (): void => stream.close(fail('canceled', 'the transfer was stopped'));
      signal.addEventListener('abort', stop, { once: true });
      stack.defer(() => {
        signal.removeEventListener('abort', stop);
        stream.close();
      });
      return stream;
    };
    const progressStream = request.progressStream === '' ? undefined : open(request.progressStream);
    const progress = stack.use(new ProgressReporter(progressStream, nameOf(job)));
    const lease = await takeLease(deps, request, stack);
    const transfer = new Transfer(deps, request, { signal, lease, open, progress, stack });
    await transfer.run(job);
  };
}

interface Tools {
  readonly signal: AbortSignal;
  readonly lease: string;
  /** A stream that a request names; closed when the transfer ends. */
  readonly open: (id: string) => Stream;
  readonly progress: ProgressReporter;
  readonly stack: AsyncDisposableStack;
}

/** The caller's lease, or one for as long as the transfer takes. */
async function takeLease(
  { metadata, clock }: TransferDeps,
  { namespace, lease }: TransferRequest,
  stack: AsyncDisposableStack,
): Promise<string> {
  if (lease !== undefined && lease !== '') return lease;
  const expire = formatRfc3339(timestampOfNs(clock.nowNs() + BigInt(leaseMs) * 1_000_000n));
  const labels = new Map([[label.gcExpire, expire]]);
  const { id } = Lease.decode(await metadata.call('leases.create', { namespace, id: '', labels }));
  stack.defer(async () => {
    await metadata.call('leases.delete', { namespace, id }).catch(() => {});
  });
  return id;
}

function nameOf(job: TransferJob): string {
  if (job.kind === 'pull') return job.source.reference;
  if (job.kind === 'push' || job.kind === 'export' || job.kind === 'tag') return job.source.name;
  return job.kind === 'import' ? job.destination.name : '';
}

class Transfer {
  readonly #deps: TransferDeps;
  readonly #request: TransferRequest;
  readonly #tools: Tools;

  constructor(deps: TransferDeps, request: TransferRequest, tools: Tools) {
    this.#deps = deps;
    this.#request = request;
    this.#tools = tools;
  }

  run(job: TransferJob): Promise<void> {
    switch (job.kind) {
      case 'pull':
        return this.#pull(job);
      case 'push':
        return this.#push(job);
      case 'import':
        return this.#import(job);
      case 'export':
        return this.#export(job);
      case 'tag':
        return this.#tag(job);
      case 'echo':
        return this.#echo(job);
    }
  }

  async #pull({ source, destination }: TransferJob & { kind: 'pull' }): Promise<void> {
    const { distribution, verify, reader } = this.#deps;
    const { signal, lease, progress } = this.#tools;
    const { namespace } = this.#request;
    const unpack = chooseUnpack(this.#deps.unpack, destination.unpacks, this.#deps.platform);
    const { concurrentDownloadsMax, concurrentUnpacksMax = concurrentDownloadsMax } = this.#deps;
    const from = this.#connect(source);
    const where = `OCI Registry (${source.reference})`;
    progress.event(`Resolving from ${where}`);
    // An image that is new here brings layers: their threads start while it is asked for.
    if (reader.image(namespace, destination.name) === undefined) distribution.prepare();
    const resolved = await from.resolve(signal);
    await verify(source.reference, resolved, signal);
    progress.event(`Pulling from ${where}`);
    progress.event('fetching image content', { name: source.reference, target: resolved });
    const { target } = await distribution.pull({
      ...{ namespace, lease, signal, from, unpack },
      target: resolved,
      platforms: destination.platforms,
      manifestsMax: destination.manifestLimit,
      allMetadata: destination.allMetadata,
      onProgress: progress.job,
      layerRangeBytes: this.#deps.layerRangeBytes,
      concurrentRequestsMax: concurrentDownloadsMax,
      // A layer is unpacked while it comes.
      concurrentDownloadsMax:
        unpack.length > 0 ? Math.min(concurrentDownloadsMax, concurrentUnpacksMax) : concurrentDownloadsMax,
    });
    await this.#record(destination, target, []);
    progress.event(`Completed pull from ${where}`);
  }

  async #push({ source, destination }: TransferJob & { kind: 'push' }): Promise<void> {
    const { distribution, concurrentUploadsMax } = this.#deps;
    const { signal, lease, progress } = this.#tools;
    const { namespace } = this.#request;
    const { name, target } = this.#image(source.name);
    await this.#keep([target]);
    const to = this.#connect(destination);
    const where = `OCI Registry (${destination.reference})`;
    progress.event(`Pushing to ${where}`);
    progress.event('pushing content', { name, target });
    await distribution.push({
      ...{ namespace, lease, signal, to, target, concurrentUploadsMax },
      platforms: source.platforms,
      onProgress: progress.job,
    });
    progress.event('pushed content', { name, target });
    progress.event(`Completed push to ${where}`);
  }

  async #import({ source, destination }: TransferJob & { kind: 'import' }): Promise<void> {
    const { engine, distribution } = this.#deps;
    const { signal, lease, progress, open } = this.#tools;
    const { namespace } = this.#request;
    const unpack = chooseUnpack(this.#deps.unpack, destination.unpacks, this.#deps.platform);
    const content = storeContent(this.#deps, namespace, lease, signal);
    progress.event('Importing');
    const index = await engine.importArchive(content, receiveBytes(open(source.stream)), {
      // A client that does not say what it sends leaves it to the first bytes.
      decompress: source.mediaType === '',
      compressLayers: source.forceCompress,
    });
    const { platforms, manifestLimit } = destination;
    const tree = await engine.labelImported(content, index, {
      matches: platforms.length === 0 ? undefined : matchAny(platforms),
      manifestsMax: manifestLimit === 0 ? undefined : manifestLimit,
      labelAll: true,
    });
    if (unpack.length > 0) {
      const onProgress = progress.job;
      for (const target of tree.tops) {
        const name = destination.name === '' ? target.digest : destination.name;
        await distribution.unpack({ namespace, lease, signal, name, target, unpack, onProgress });
      }
    }
    await this.#record(destination, index, tree.tops);
    progress.event('Completed import');
  }

  async #export({ source, destination }: TransferJob & { kind: 'export' }): Promise<void> {
    const { engine, platform } = this.#deps;
    const { signal, lease, progress, open } = this.#tools;
    const stream = open(destination.stream);
    const names = [source.name, ...source.extraReferences.map((reference) => this.#exact(reference))];
    const images = names.filter((name) => name !== '').map((name) => this.#image(name));
    if (images.length === 0) throw fail('invalid-argument', 'an export needs the name of an image');
    await this.#keep(images.map(({ target }) => target));
    progress.event('Exporting');
    const content = storeContent(this.#deps, this.#request.namespace, lease, signal);
    const { platforms, allPlatforms } = destination;
    const matches: PlatformMatcher = platforms.length > 0 ? matchAny(platforms) : matchStrict(platform);
    const archive = engine.exportImages(content, images, {
      ...{ matches, allPlatforms },
      skipManifestJson: destination.skipCompatibilityManifest,
      skipNonDistributable: destination.skipNonDistributable,
    });
    await sendBytes(stream, archive);
    progress.event('Completed export');
  }

  #exact({ name, isPrefix }: { name: string; isPrefix: boolean }): string {
    if (isPrefix) throw fail('unimplemented', `export of all images that begin with "${name}"`);
    return name;
  }

  async #tag({ source, destination }: TransferJob & { kind: 'tag' }): Promise<void> {
    await this.#record(destination, this.#image(source.name).target, []);
  }

  async #echo({ source, destination }: TransferJob & { kind: 'echo' }): Promise<void> {
    await sendBytes(this.#tools.open(destination.stream), receiveBytes(this.#tools.open(source.stream)));
  }

  /** Makes the records that the destination asks for. */
  async #record(
    store: ImageStore,
    top: LinkedDescriptor,
    manifests: readonly LinkedDescriptor[],
  ): Promise<void> {
    const { namespace } = this.#request;
    const { lease, progress } = this.#tools;
    const made = await recordImages(this.#deps, namespace, lease, store, top, manifests);
    for (const { name, target } of made) progress.event('saved', { name, target });
  }

  #image(name: string): { name: string; target: LinkedDescriptor } {
    const record = name === '' ? undefined : this.#deps.reader.image(this.#request.namespace, name);
    if (record === undefined) throw fail('not-found', `image "${name}"`);
    const { target } = Image.decode(record);
    if (target === undefined) throw fail('internal', `image "${name}" has no target`);
    const { mediaType, digest, size, annotations } = target;
    return { name, target: { mediaType, digest: parseDigest(digest), size, annotations, urls: [] } };
  }

  /** What is being read stays, whatever becomes of its name meanwhile. */
  async #keep(targets: readonly LinkedDescriptor[]): Promise<void> {
    const { namespace } = this.#request;
    const { lease } = this.#tools;
    for (const { digest } of targets) {
      await this.#deps.metadata.call('content.lease', { namespace, lease, digest });
    }
  }

  #connect({ reference, resolver }: OCIRegistry): RegistryConnection {
    const { open, stack } = this.#tools;
    const scheme = resolver?.defaultScheme ?? '';
    if (scheme !== '' && scheme !== 'http' && scheme !== 'https') {
      throw fail('invalid-argument', `default scheme "${scheme}" is neither http nor https`);
    }
    const authStream = resolver?.authStream ?? '';
    return stack.use(
      this.#deps.distribution.connect({
        reference,
        hostsDirectory: resolver?.hostDir || undefined,
        defaultScheme: scheme === '' ? undefined : scheme,
        headers: resolver?.headers,
        credentials: authStream === '' ? undefined : credentialsOver(open(authStream), reference),
        onExchange: this.#exchangeLog(resolver),
      }),
    );
  }

  /** Where the requests and answers of the registry are told, if anywhere. */
  #exchangeLog(resolver: OCIRegistry['resolver']): ((line: string) => void) | undefined {
    if (resolver === undefined || resolver.httpDebug === HTTPDebug.DISABLED) return undefined;
    const { log } = this.#deps;
    const { open, stack } = this.#tools;
    if (resolver.logsStream === '') return (line) => log.info(line, { source: 'registry' });
    return stack.use(linesOver(open(resolver.logsStream))).write;
  }
}
