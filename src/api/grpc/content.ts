// The Content service: blobs by digest, and the write stream by which they come in.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import type { ContentStore, IngestStatus, Writer } from '../../actors/content/protocol.ts';
import { fail } from '../model/errors.ts';
import { compileFilters, type Filter } from '../model/filter.ts';
import { type Digest, parseDigest } from '../model/ids.ts';
import { timestampOfNs } from '../model/time.ts';
import type { FieldPlaces } from '../model/wire-fields.ts';
import {
  ContentDefinition,
  Info,
  type ReadContentRequest,
  type Status,
  WriteAction,
  type WriteContentRequest,
  WriteContentResponse,
} from '../proto/gen/services/content/v1/content.ts';
import { type BoundService, bindService, Encoded } from './bind.ts';
import type { CallContext } from './context.ts';
import type { MetadataDeps } from './deps.ts';
import { inFieldOne, listInFieldOne, recordsMatching } from './records.ts';

export interface ContentDeps extends MetadataDeps {
  readonly content: ContentStore;
}

const infosPerMessage = 100;
const readChunkBytes = 1 << 20;

export function contentService({ metadata, reader, content }: ContentDeps): BoundService {
  return bindService(ContentDefinition, {
    info(request, { namespace }) {
      const digest = parseDigest(request.digest);
      const record = reader.content(namespace, digest);
      if (record === undefined) throw fail('not-found', `content digest ${digest}`);
      return inFieldOne(record);
    },

    async update({ info, updateMask }, { namespace }) {
      if (info === undefined) throw fail('invalid-argument', 'the update has no info');
      parseDigest(info.digest);
      const request = { namespace, info: Info.encode(info).finish(), mask: updateMask ?? [] };
      return inFieldOne(await metadata.call('content.update', request));
    },

    list({ filters }, { namespace }) {
      const filter = compileFilters(filters);
      return pages((after) => reader.contentPage(namespace, after, infosPerMessage), filter);
    },

    async delete(request, { namespace, lease }) {
      const digest = parseDigest(request.digest);
      await metadata.call('content.delete', { namespace, lease, digest });
      return {};
    },

    async *read(request, context) {
      const digest = parseDigest(request.digest);
      if (reader.content(context.namespace, digest) === undefined) {
        throw fail('not-found', `content digest ${digest}`);
      }
      await using blob = await content.blobs.open(digest);
      const { start, end } = rangeOf(request, blob.sizeBytes);
      const load = (at: number): { message: Encoded; filled: Promise<void> } | undefined => {
        if (at >= end) return undefined;
        // Offsets count from the start of the read, not of the blob: clients know it so.
        const { message, data } = readResponse(context, at - start, Math.min(readChunkBytes, end - at));
        const filled = blob.readFully(data, at);
        // Its failure is told when its turn comes.
        filled.catch(() => {});
        return { message, filled };
      };
      // The next piece is read while the client takes this one.
      let ready = load(start);
      try {
        for (let at = start; ready !== undefined; ) {
          const { message, filled } = ready;
          await filled;
          at += readChunkBytes;
          ready = load(at);
          yield message;
        }
      } finally {
        // The file must stay open for a read that nobody waits for any more.
        await ready?.filled.catch(() => {});
      }
    },

    status({ ref }, { namespace }) {
      const status = content.status(namespace, ref);
      if (status === undefined) throw fail('not-found', `reference ${ref}`);
      return { status: statusMessage(status) };
    },

    listStatuses({ filters }, { namespace }) {
      const filter = compileFilters(filters);
      const statuses = content
        .statuses(namespace)
        .filter(({ ref }) =>
          filter.matches((path) => (path.length === 1 && path[0] === 'ref' ? ref : undefined)),
        );
      return { statuses: statuses.map(statusMessage) };
    },

    write: (requests, context) => write(content, requests, context),

    async abort({ ref }, { namespace, lease }) {
      await content.abort(namespace, ref, lease);
      return {};
    },
  });
}

/** Messages of up to 100 infos each; none when nothing matches. */
async function* pages(pageAfter: (digest: string) => Uint8Array[], filter: Filter): AsyncGenerator<Encoded> {
  let kept: Uint8Array[] = [];
  let after = '';
  for (;;) {
    const page = pageAfter(after);
    const last = page.at(-1);
    if (last === undefined) break;
    after = Info.decode(last).digest;
    kept.push(...recordsMatching(page, filter, places));
    if (kept.length >= infosPerMessage) {
      yield listInFieldOne(kept.slice(0, infosPerMessage));
      kept = kept.slice(infosPerMessage);
    }
    if (page.length < infosPerMessage) break;
    await nextTurn();
  }
  if (kept.length > 0) yield listInFieldOne(kept);
}

const places: FieldPlaces = {
  digest: { kind: 'string', at: [1] },
  labels: { kind: 'map', at: [5] },
};

function rangeOf({ offset, size }: ReadContentRequest, sizeBytes: number): { start: number; end: number } {
  const start = offset < 0n ? 0n : offset;
  if (start > BigInt(sizeBytes)) {
    throw fail('out-of-range', `read at ${start} is past the end of ${sizeBytes} bytes`);
  }
  const left = BigInt(sizeBytes) - start;
  const length = size <= 0n || size > left ? left : size;
  return { start: Number(start), end: Number(start + length) };
}

/** A ReadContentResponse whose data is still to be read, straight into its place. */
function readResponse(
  context: CallContext,
  offset: number,
  length: number,
): { message: Encoded; data: Uint8Array } {
  const head = new BinaryWriter();
  if (offset > 0) head.tag(1, WireType.Varint).int64(offset);
  const start = head.tag(2, WireType.LengthDelimited).uint32(length).finish();
  const message = context.allocate(start.length + length);
  message.bytes.set(start);
  return { message, data: message.bytes.subarray(start.length) };
}

function statusMessage({ ref, offset, total, startedAtNs, updatedAtNs }: IngestStatus): Status {
  return {
    ref,
    offset: BigInt(offset),
    total: BigInt(total),
    startedAt: timestampOfNs(startedAtNs),
    updatedAt: timestampOfNs(updatedAtNs),
    expected: '',
  };
}

async function* write(
  content: ContentStore,
  requests: AsyncIterable<WriteContentRequest>,
  context: CallContext,
): AsyncGenerator<Encoded> {
  let writer: Writer | undefined;
  let expected: Digest | undefined;
  let total = 0n;
  // One for the stream: what an answer to STAT says of times and total, later answers say too.
  const response = WriteContentResponse.create();
  let last: Encoded | undefined;
  try {
    for await (const request of requests) {
      if (request.expected !== '') expected = parseDigest(request.expected);
      if (request.total > 0n) total = request.total;
      if (writer === undefined) writer = await open(content, request, context, Number(total), expected);
      else if (request.expected !== '' && expected !== undefined) await writer.refuseKnown(expected);
      await act(writer, request, response, total, expected);
      last = new Encoded(WriteContentResponse.encode(response).finish());
      yield last;
      if (request.action === WriteAction.COMMIT) break;
    }
    if (last === undefined) throw fail('invalid-argument', 'first message must have a reference');
    // containerd sends the last response twice when a stream ends well; its clients have read past it by then.
    yield last;
  } finally {
    await writer?.close();
  }
}

function open(
  content: ContentStore,
  { ref }: WriteContentRequest,
  context: CallContext,
  total: number,
  expected: Digest | undefined,
): Promise<Writer> {
  if (ref === '') throw fail('invalid-argument', 'first message must have a reference');
  const { namespace, lease } = context;
  return content.openWriter({
    namespace,
    ref,
    lease,
    total,
    expected,
    // Only a writer that has much to read through asks for it, and it is not for nothing.
    get signal() {
      return context.signal;
    },
  });
}

/** Does what one message asks for and fills in the answer. */
async function act(
  writer: Writer,
  request: WriteContentRequest,
  response: WriteContentResponse,
  total: bigint,
  expected: Digest | undefined,
): Promise<void> {
  const { action, offset, data, labels } = request;
  response.action = action;
  if (action === WriteAction.STAT) {
    response.startedAt = timestampOfNs(writer.startedAtNs);
    response.updatedAt = timestampOfNs(writer.updatedAtNs);
    response.total = total;
  } else if (action === WriteAction.WRITE || action === WriteAction.COMMIT) {
    if (offset > 0n && offset !== BigInt(writer.offset)) {
      throw fail('out-of-range', `write @${offset} must occur at current offset ${writer.offset}`);
    }
    if (offset === 0n && writer.offset > 0) await writer.truncate();
    if (data.byteLength > 0) await writer.append(data);
  } else throw fail('invalid-argument', `unknown action ${action} in a write of "${writer.ref}"`);
  response.digest = writer.digest();
  response.offset = BigInt(writer.offset);
  if (action !== WriteAction.COMMIT) return;
  response.digest = (await writer.commit({ total: Number(total), expected, labels })).digest;
}
