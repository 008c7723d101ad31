// The content of a namespace under a lease, straight at the store: what the image engine works with in the daemon.
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf } from '../../api/model/errors.ts';
import type { Digest, Namespace } from '../../api/model/ids.ts';
import { parseDigest } from '../../api/model/ids.ts';
import { label } from '../../api/model/labels.ts';
import type { BlobInfo, BlobSink, ImageContent, NewBlob } from '../../api/model/ports/image-content.ts';
import { Info } from '../../api/proto/gen/services/content/v1/content.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { ContentStore, Writer } from '../content/protocol.ts';
import type { MetadataProtocol, MetadataReader } from '../metadata/protocol.ts';

export interface StoreDeps {
  readonly content: ContentStore;
  readonly metadata: ActorRef<MetadataProtocol>;
  readonly reader: MetadataReader;
}

const readBytes = 1024 * 1024;
const lockWaitMsFirst = 16;
const lockWaitMsMax = 2048;
const pageLength = 256;

export function storeContent(
  { content, metadata, reader }: StoreDeps,
  namespace: Namespace,
  lease: string,
  signal: AbortSignal,
): ImageContent {
  const infoOf = (digest: Digest): BlobInfo | undefined => {
    const record = reader.content(namespace, digest);
    return record === undefined ? undefined : blobInfo(Info.decode(record));
  };

  async function setLabels(digest: Digest, labels: ReadonlyMap<string, string>): Promise<void> {
    const known = infoOf(digest)?.labels;
    const changed = [...labels].filter(([key, value]) => (known?.get(key) ?? '') !== value);
    if (changed.length === 0) return;
    const info = Info.encode(Info.fromPartial({ digest, labels: new Map(changed) })).finish();
    const mask = changed.map(([key]) => `labels.${key}`);
    await metadata.call('content.update', { namespace, info, mask });
  }

  /** A ref that somebody else writes is waited for, as clients do. */
  async function openWriter({ ref, expected, sizeBytes = 0 }: NewBlob): Promise<Writer | undefined> {
    const request = { namespace, ref, lease, total: sizeBytes, expected, signal };
    for (let waitMs = lockWaitMsFirst; ; waitMs = Math.min(waitMs * 2, lockWaitMsMax)) {
      try {
        return await content.openWriter(request);
      } catch (error) {
        const code = codeOf(error);
        if (code === 'already-exists') return undefined;
        if (code !== 'unavailable') throw error;
        await sleep(randomInt(waitMs), undefined, { signal });
      }
    }
  }

  function sinkOf(writer: Writer, { ref, expected, sizeBytes = 0 }: NewBlob): BlobSink {
    let ended = false;
    return {
      write: (data) => writer.append(data),
      async commit(labels = new Map()) {
        const digest = expected ?? writer.digest();
        try {
          const { sizeBytes: size } = await writer.commit({ total: sizeBytes, expected, labels });
          ended = true;
          return { digest, sizeBytes: size, labels };
        } catch (error) {
          if (codeOf(error) !== 'already-exists') throw error;
          ended = true;
          if (labels.size > 0) await setLabels(digest, labels);
          const info = infoOf(digest);
          if (info === undefined) throw error;
          return info;
        } finally {
          await writer.close();
        }
      },
      async abort() {
        if (ended) return;
        ended = true;
        await writer.close();
        // Bytes that nobody will ask for again; the lease would keep them.
        await content.abort(namespace, ref, lease).catch(() => {});
      },
    };
  }

  return {
    signal,
    async info(digest) {
      return infoOf(digest);
    },
    async *read(digest) {
      content.info(namespace, digest);
      await using blob = await content.blobs.open(digest);
      for (let at = 0; at < blob.sizeBytes; at += readBytes) {
        signal.throwIfAborted();
        const data = Buffer.allocUnsafeSlow(Math.min(readBytes, blob.sizeBytes - at));
        await blob.readFully(data, at);
        yield data;
      }
    },
    async create(blob) {
      const writer = await openWriter(blob);
      if (writer === undefined) return undefined;
      const sink = sinkOf(writer, blob);
      try {
        // A shared blob is complete from the start.
        if (writer.offset > 0 && blob.expected === undefined) await writer.truncate();
        else if (writer.offset > 0 && writer.offset === blob.sizeBytes) {
          await sink.commit();
          return undefined;
        } else if (writer.offset > 0) await writer.truncate();
        return sink;
      } catch (error) {
        await sink.abort();
        throw error;
      }
    },
    setLabels,
    async findUncompressed(diffId) {
      for (let after = ''; ; ) {
        const page = reader.contentPage(namespace, after, pageLength);
        for (const record of page) {
          const info = Info.decode(record);
          after = info.digest;
          if (info.labels.get(label.uncompressed) === diffId) return blobInfo(info);
        }
        if (page.length < pageLength) return undefined;
      }
    },
  };
}

function blobInfo({ digest, size, labels }: Info): BlobInfo {
  return { digest: parseDigest(digest), sizeBytes: Number(size), labels };
}
