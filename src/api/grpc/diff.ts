// The Diff service: applies layers of a namespace's content to mounts, and makes content of what differs.
import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContentStore, Writer } from '../../actors/content/protocol.ts';
import type { MountsActorProtocol } from '../../actors/mounts/protocol.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import { codeOf, fail, messageOf, wrap } from '../model/errors.ts';
import { type Digest, parseDigest } from '../model/ids.ts';
import { checkLabels, label } from '../model/labels.ts';
import type { Differ, DiffLayerResult, RemoteDiffer } from '../model/ports/differ.ts';
import type { Log } from '../model/ports/log.ts';
import { formatRfc3339, timestampOfNs } from '../model/time.ts';
import { Any } from '../proto/gen/google/protobuf/any.ts';
import { Info } from '../proto/gen/services/content/v1/content.ts';
import { type ApplyRequest, DiffDefinition, type DiffRequest } from '../proto/gen/services/diff/v1/diff.ts';
import { Lease } from '../proto/gen/services/leases/v1/leases.ts';
import type { Descriptor } from '../proto/gen/types/descriptor.ts';
import type { Mount } from '../proto/gen/types/mount.ts';
import { type BoundService, bindService } from './bind.ts';
import type { CallContext } from './context.ts';
import type { MetadataDeps } from './deps.ts';

export interface DiffDeps extends MetadataDeps {
  /** In the order in which they are tried: one that does not know a type leaves it to the next. */
  readonly differs: readonly (Differ | RemoteDiffer)[];
  readonly content: ContentStore;
  /** Layers in the making; on the file system of the content store, so that they need not be copied. */
  readonly outputDirectory: string;
  /** Flush after every apply, whatever the request says. */
  readonly syncFs: boolean;
  readonly log: Log;
  /** Performs mounts of types that only the daemon knows (`format/`, `mkdir/`, `mkfs/`). */
  readonly mounts: ActorRef<MountsActorProtocol>;
}

const activateMsMax = 600_000;
const activationMs = 24 * 60 * 60 * 1000;

const uncompressedTar = 'application/vnd.oci.image.layer.v1.tar';

export function diffService(deps: DiffDeps): BoundService {
  const { differs, content, metadata, log } = deps;

  /** The answer of the first differ that knows what to do; throws the last refusal when none does. */
  async function first<T>(use: (differ: Differ | RemoteDiffer) => Promise<T>): Promise<T> {
    let refusal: unknown = fail('unimplemented', 'no differ is configured');
    for (const differ of differs) {
      try {
        return await use(differ);
      } catch (error) {
        if (codeOf(error) !== 'unimplemented') throw error;
        refusal = error;
      }
    }
    throw refusal;
  }

  async function apply(request: ApplyRequest, context: CallContext): Promise<Descriptor> {
    try {
      return await first((differ) =>
        'remoteApply' in differ ? differ.remoteApply(request, context) : applyHere(differ, request, context),
      );
    } catch (error) {
      // That no differ knows a layer's type reaches containerd's clients unclassified.
      if (codeOf(error) === 'unimplemented') throw fail('unknown', messageOf(error), error);
      throw error;
    }
  }

  /** Hands on mounts that a differ knows: those of other types are performed, and undone afterwards. */
  async function withPlainMounts<T>(
    mounts: readonly Mount[],
    { namespace, signal, lease }: CallContext,
    use: (mounts: readonly Mount[]) => Promise<T>,
  ): Promise<T> {
    if (!mounts.some(({ type }) => type.includes('/'))) return use(mounts);
    await using stack = new AsyncDisposableStack();
    const keeper = lease || (await takeLease(namespace, stack));
    const name = `diff-${randomUUID()}`;
    const { system } = await deps.mounts.call(
      'activate',
      { namespace, name, lease: keeper, mounts, labels: new Map(), temporary: false },
      { deadlineMs: activateMsMax, signal },
    );
    stack.defer(() => deps.mounts.call('deactivate', { namespace, name }));
    return await use(system);
  }

  /** Without a lease the collector would take what nobody else knows of. */
  async function takeLease(namespace: string, stack: AsyncDisposableStack): Promise<string> {
    const expire = formatRfc3339(timestampOfNs(BigInt(Date.now() + activationMs) * 1_000_000n));
    const labels = new Map([[label.gcExpire, expire]]);
    const { id } = Lease.decode(await metadata.call('leases.create', { namespace, id: '', labels }));
    stack.defer(async () => {
      await metadata.call('leases.delete', { namespace, id });
    });
    return id;
  }

  async function applyHere(differ: Differ, request: ApplyRequest, context: CallContext): Promise<Descriptor> {
    const { diff, mounts } = request;
    if (diff === undefined) throw fail('invalid-argument', 'apply needs the descriptor of a layer');
    if (mounts.length === 0) throw fail('invalid-argument', 'apply needs mounts to apply the layer to');
    const digest = parseDigest(diff.digest);
    const path = content.blobPath(context.namespace, digest);
    const data = {
      source: { path },
      blobDigest: digest,
      mediaType: diff.mediaType,
      syncFs: request.syncFs || deps.syncFs,
      payloads: new Map([...request.payloads].map(([id, any]) => [id, Any.encode(any).finish()])),
    };
    try {
      const applied = await withPlainMounts(mounts, context, (plain) =>
        differ.apply({ ...data, mounts: plain }, context.signal),
      );
      for (const warning of applied.warnings) log.warn(`layer ${digest}: ${warning}`);
      return descriptor(uncompressedTar, applied.digest, applied.sizeBytes);
    } catch (error) {
      // The collector may take a blob that nothing refers to between the look-up and the first read.
      if (content.blobs.sizeOf(digest) === undefined)
        throw fail('not-found', `content digest ${digest}`, error);
      throw wrap(`apply layer ${digest}`, error);
    }
  }

  function diff(request: DiffRequest, context: CallContext): Promise<Descriptor> {
    return first((differ) =>
      'remoteDiff' in differ ? differ.remoteDiff(request, context) : diffHere(differ, request, context),
    );
  }

  async function diffHere(differ: Differ, request: DiffRequest, context: CallContext): Promise<Descriptor> {
    checkLabels(request.labels);
    const ref = await lockRef(request, context);
    const outputPath = join(deps.outputDirectory, `diff-${randomUUID()}`);
    try {
      const epoch = request.sourceDateEpoch;
      const sourceDateEpochSeconds = epoch === undefined ? undefined : Number(epoch.seconds);
      const { mediaType, left, right } = request;
      const made = await withPlainMounts(left, context, (lower) =>
        withPlainMounts(right, context, (upper) =>
          differ.diff({ lower, upper, mediaType, outputPath, sourceDateEpochSeconds }, context.signal),
        ),
      );
      await record(made, outputPath, request, context);
      if (ref !== undefined) await endIngest(request.ref, context);
      return descriptor(made.mediaType, made.digest, made.sizeBytes);
    } finally {
      await ref?.close();
      await rm(outputPath, { force: true });
    }
  }

  /** A ref that the client names is its ingest: locked meanwhile, emptied, and kept when the diff fails. */
  async function lockRef(request: DiffRequest, context: CallContext): Promise<Writer | undefined> {
    if (request.ref === '') return undefined;
    const { namespace, lease, signal } = context;
    const writer = await content.openWriter({
      namespace,
      ref: request.ref,
      lease,
      total: 0,
      expected: undefined,
      signal,
    });
    try {
      if (writer.offset > 0) await writer.truncate();
    } catch (error) {
      await writer.close();
      throw error;
    }
    return writer;
  }

  async function endIngest(ref: string, { namespace, lease }: CallContext): Promise<void> {
    try {
      await content.abort(namespace, ref, lease);
    } catch (error) {
      // Somebody may have aborted it meanwhile; the content is there all the same.
      if (codeOf(error) !== 'not-found') throw error;
    }
  }

  async function record(
    made: DiffLayerResult,
    path: string,
    request: DiffRequest,
    { namespace, lease }: CallContext,
  ): Promise<void> {
    const { digest, diffId } = made;
    const labels = new Map(request.labels);
    if (made.mediaType !== uncompressedTar) labels.set(label.uncompressed, diffId);
    await content.ingestFile(namespace, {
      ref: request.ref || `diff-${digest}`,
      path,
      labels,
      digest,
      lease,
    });
    if (made.mediaType === uncompressedTar) return;
    // Content that was there before keeps its labels, but what it unpacks to is known now.
    if (content.info(namespace, digest).labels.get(label.uncompressed) === diffId) return;
    const info = Info.encode(
      Info.fromPartial({ digest, labels: new Map([[label.uncompressed, diffId]]) }),
    ).finish();
    await metadata.call('content.update', { namespace, info, mask: [`labels.${label.uncompressed}`] });
  }

  return bindService(DiffDefinition, {
    apply: async (request, context) => ({ applied: await apply(request, context) }),
    diff: async (request, context) => ({ diff: await diff(request, context) }),
  });
}

function descriptor(mediaType: string, digest: Digest, sizeBytes: number): Descriptor {
  return { mediaType, digest, size: BigInt(sizeBytes), annotations: new Map() };
}
