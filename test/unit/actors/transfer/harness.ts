// Streaming and Transfer over a real store, called as any gRPC client would call them.
import type { TestContext } from 'node:test';
import type * as grpc from '@grpc/grpc-js';
import type { Distribution } from '../../../../src/actors/distribution/protocol.ts';
import { StreamDirectory } from '../../../../src/actors/streaming/directory.ts';
import { storeContent } from '../../../../src/actors/transfer/content.ts';
import { TransferDirectory } from '../../../../src/actors/transfer/directory.ts';
import type { TransferDeps } from '../../../../src/actors/transfer/work.ts';
import { streamingService } from '../../../../src/api/grpc/streaming.ts';
import { transferService } from '../../../../src/api/grpc/transfer.ts';
import { type MessageStream, packAny } from '../../../../src/api/model/binary-stream.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import { parseDigest, parseNamespace } from '../../../../src/api/model/ids.ts';
import type { LinkedDescriptor } from '../../../../src/api/model/oci.ts';
import { platformOf } from '../../../../src/api/model/platform.ts';
import { systemClock } from '../../../../src/api/model/time.ts';
import type { Any } from '../../../../src/api/proto/gen/google/protobuf/any.ts';
import { Image } from '../../../../src/api/proto/gen/services/images/v1/images.ts';
import {
  StreamInit,
  StreamingDefinition,
} from '../../../../src/api/proto/gen/services/streaming/v1/streaming.ts';
import { TransferDefinition } from '../../../../src/api/proto/gen/services/transfer/v1/transfer.ts';
import { imageEngine } from '../../../../src/io/archive/image/engine.ts';
import { Supervisor } from '../../../../src/supervisor/supervisor.ts';
import type { BuiltImage } from '../../../fixtures/image.ts';
import { memoryContent, putImage } from '../../../fixtures/memory-content.ts';
import { bidi, inNamespace, serve, unary } from '../../api/grpc/harness.ts';
import { type ContentHarness, startContent } from '../content/harness.ts';

export const testing = parseNamespace('testing');

export interface TransferHarness {
  readonly content: ContentHarness;
  readonly streams: StreamDirectory;
  readonly client: grpc.Client;
  /** Opens a stream and waits until it may be named. */
  stream(id: string, metadata?: grpc.Metadata): Promise<ClientStream>;
  transfer(source: Any, destination: Any, progress?: string, options?: grpc.CallOptions): Promise<unknown>;
  put(image: BuiltImage, name: string): Promise<LinkedDescriptor>;
  image(name: string): Image | undefined;
  /** Refs of ingests, and leases: nothing of a transfer may stay. */
  leftovers(): string[];
}

export interface ClientStream extends MessageStream {
  end(): void;
  cancel(): void;
}

const refuse = (): never => {
  throw fail('unimplemented', 'no registry in this test');
};

export async function startTransfers(
  t: TestContext,
  distribution: Partial<Distribution> = {},
  more: Partial<TransferDeps> = {},
): Promise<TransferHarness> {
  const content = await startContent();
  t.after(() => content[Symbol.asyncDispose]());
  const { metadata, reader, system } = content.metadata;
  const streams = new StreamDirectory();
  const platform = platformOf('linux', 'amd64');
  const transfers = new TransferDirectory(system, {
    ...{ metadata, reader, streams, platform },
    content: content.content,
    engine: imageEngine,
    distribution: {
      connect: refuse,
      prepare: () => {},
      pull: refuse,
      unpack: refuse,
      push: refuse,
      ...distribution,
    },
    verify: async () => {},
    clock: systemClock(),
    log: { trace() {}, debug() {}, info() {}, warn() {}, error() {} } as unknown as TransferDeps['log'],
    unpack: [{ platform, snapshotter: 'overlayfs', osOnly: true }],
    layerRangeBytes: 0,
    concurrentDownloadsMax: 3,
    concurrentUploadsMax: 3,
    ...more,
  });
  const root = await Supervisor.start(system, {
    path: 'transfers-test',
    strategy: 'one_for_one',
    intensity: { restartsMax: 0, withinMs: 1000 },
    children: [transfers.child()],
  });
  t.after(() => root.stop({ kind: 'shutdown' }));
  const { client } = await serve(t, [streamingService({ streams }), transferService({ transfers })]);
  return {
    content,
    streams,
    client,
    async stream(id, namespaced = inNamespace) {
      const call = bidi(client, StreamingDefinition, 'stream', namespaced);
      call.on('error', () => {});
      const messages = call[Symbol.asyncIterator]();
      call.write(packAny(StreamInit, { id }));
      const first = await messages.next();
      if (first.done === true || first.value.typeUrl !== 'google.protobuf.Empty') {
        throw new Error(`stream ${id} is not acknowledged`);
      }
      return {
        send: (message) =>
          new Promise((resolve, reject) => {
            call.write(message, (error: unknown) => (error ? reject(error) : resolve()));
          }),
        async receive() {
          const next = await messages.next();
          return next.done === true ? undefined : (next.value as Any);
        },
        end: () => void call.end(),
        cancel: () => call.cancel(),
      };
    },
    transfer: (source, destination, progressStream = '', options = {}) =>
      unary(
        client,
        TransferDefinition,
        'transfer',
        { source, destination, options: { progressStream } },
        inNamespace,
        options,
      ),
    async put(image, name) {
      const memory = memoryContent();
      const target = putImage(memory, image);
      const store = storeContent(
        { content: content.content, metadata, reader },
        testing,
        '',
        new AbortController().signal,
      );
      for (const [digest, { bytes, labels }] of memory.blobs) {
        const sink = await store.create({ ref: `put-${digest}`, expected: parseDigest(digest) });
        await sink?.write(Uint8Array.from(bytes));
        await sink?.commit(labels);
      }
      const { mediaType, digest, size, annotations } = target;
      await metadata.call('images.create', {
        namespace: testing,
        lease: undefined,
        image: Image.encode(
          Image.fromPartial({ name, target: { mediaType, digest, size, annotations } }),
        ).finish(),
        epoch: undefined,
      });
      return target;
    },
    image(name) {
      const record = reader.image(testing, name);
      return record === undefined ? undefined : Image.decode(record);
    },
    leftovers: () => [
      ...content.content.statuses(testing).map(({ ref }) => ref),
      ...reader.leases(testing).map(() => 'lease'),
    ],
  };
}
