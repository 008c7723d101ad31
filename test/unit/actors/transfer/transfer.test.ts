// Streams and transfers as a client sees them: acknowledgement, windows, every pair that needs no registry, progress,
// cancellation that leaves nothing.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import * as grpc from '@grpc/grpc-js';
import { packAny, receiveBytes, sendBytes, unpackAny } from '../../../../src/api/model/binary-stream.ts';
import { label } from '../../../../src/api/model/labels.ts';
import type { Any } from '../../../../src/api/proto/gen/google/protobuf/any.ts';
import { StreamingDefinition } from '../../../../src/api/proto/gen/services/streaming/v1/streaming.ts';
import { TransferDefinition } from '../../../../src/api/proto/gen/services/transfer/v1/transfer.ts';
import { ImageStore } from '../../../../src/api/proto/gen/types/transfer/imagestore.ts';
import {
  ImageExportStream,
  ImageImportStream,
} from '../../../../src/api/proto/gen/types/transfer/importexport.ts';
import { Progress } from '../../../../src/api/proto/gen/types/transfer/progress.ts';
import { Data, WindowUpdate } from '../../../../src/api/proto/gen/types/transfer/streaming.ts';
import { buildIndex, buildLayer, buildManifest } from '../../../fixtures/image.ts';
import { collect, inPieces, readTar } from '../../../fixtures/memory-content.ts';
import { until } from '../../../fixtures/process.ts';
import { bidi, headers, unary } from '../../api/grpc/harness.ts';
import { type ClientStream, startTransfers, testing } from './harness.ts';

const store = (name: string, more = {}) => packAny(ImageStore, ImageStore.fromPartial({ name, ...more }));
const importFrom = (stream: string, mediaType = '') =>
  packAny(ImageImportStream, { stream, mediaType, forceCompress: false });
const exportTo = (stream: string, more = {}) =>
  packAny(ImageExportStream, ImageExportStream.fromPartial({ stream, ...more }));

const imageOf = async (sizeBytes = 300_000) =>
  buildIndex([
    buildManifest(
      [await buildLayer([{ name: 'noise', content: randomBytes(sizeBytes) }])],
      {},
      {
        os: 'linux',
        architecture: 'amd64',
      },
    ),
  ]);

async function progressOf(stream: ClientStream): Promise<Progress[]> {
  const heard: Progress[] = [];
  for (;;) {
    const message = await stream.receive();
    if (message === undefined) return heard;
    heard.push(unpackAny(Progress, message)!);
  }
}

const code = (expected: grpc.status, says: RegExp) => (error: unknown) => {
  assert.equal((error as grpc.ServiceError).code, expected, String(error));
  assert.match((error as grpc.ServiceError).details, says);
  return true;
};

test('export, import elsewhere under other names, tag: the same image, told of on the way', async (t) => {
  const harness = await startTransfers(t);
  const target = await harness.put(await imageOf(), 'example.com/app:1');

  const out = await harness.stream('export-1');
  const progress = await harness.stream('progress-1');
  const [heard, archive] = await Promise.all([
    progressOf(progress),
    collect(receiveBytes(out)),
    harness.transfer(store('example.com/app:1'), exportTo('export-1'), 'progress-1'),
  ]);
  assert.deepEqual(
    heard.map(({ event }) => event),
    ['Exporting', 'Completed export'],
  );
  const paths = (await readTar(archive)).map(({ header }) => header.name);
  assert.ok(paths.includes('manifest.json') && paths.includes('index.json'));

  const into = await harness.stream('import-1');
  const told = await harness.stream('progress-2');
  const destination = store('', {
    extraReferences: [{ name: 'example.com/app', isPrefix: true, addDigest: true }],
  });
  const [events] = await Promise.all([
    progressOf(told),
    sendBytes(into, inPieces(archive, 50_000)).then(() => into.end()),
    harness.transfer(importFrom('import-1'), destination, 'progress-2'),
  ]);
  assert.deepEqual(
    events.map(({ event, name }) => [event, name.replace(/sha256:.*/, 'DIGEST')]),
    [
      ['Importing', ''],
      ['saved', 'example.com/app@DIGEST'],
      ['saved', 'example.com/app:1'],
      ['saved', 'example.com/app@DIGEST'],
      ['Completed import', ''],
    ],
  );
  assert.equal(harness.image('example.com/app:1')?.target?.digest, target.digest);
  assert.equal(harness.image(`example.com/app@${target.digest}`)?.target?.digest, target.digest);

  await harness.transfer(
    store('example.com/app:1'),
    store('example.com/other:2', { labels: new Map([['a', 'b']]) }),
  );
  assert.equal(harness.image('example.com/other:2')?.target?.digest, target.digest);
  assert.equal(harness.image('example.com/other:2')?.labels.get('a'), 'b');
  // Once more: a tag overwrites.
  await harness.transfer(store('example.com/app:1'), store('example.com/other:2'));
  assert.equal(harness.image('example.com/other:2')?.labels.size, 0);
  assert.deepEqual(harness.leftovers(), []);
});

test('further names go with the first one', async (t) => {
  const harness = await startTransfers(t);
  await harness.put(await imageOf(1000), 'a.b/c:1');
  const destination = store('a.b/first:1', { extraReferences: [{ name: 'a.b/second:1' }] });
  await harness.transfer(store('a.b/c:1'), destination);
  const { labels } = harness.image('a.b/second:1')!;
  assert.equal(labels.get(label.gcBackRefImage), 'a.b/first:1');
  assert.ok(labels.has(label.gcExpire));
  await assert.rejects(
    harness.transfer(store('a.b/c:1'), store('')),
    code(grpc.status.NOT_FOUND, /no image name found/),
  );
});

test('bytes are echoed from one stream to the other, within the windows', async (t) => {
  const harness = await startTransfers(t);
  const [into, out] = await Promise.all([harness.stream('in'), harness.stream('out')]);
  const bytes = randomBytes(3_000_000);
  const [echoed] = await Promise.all([
    collect(receiveBytes(out)),
    sendBytes(into, inPieces(bytes, 123_456)).then(() => into.end()),
    harness.transfer(importFrom('in'), exportTo('out')),
  ]);
  assert.ok(echoed.equals(bytes));
});

test('a sender holds what was not granted, in pieces of at most 32 KiB', async (t) => {
  const harness = await startTransfers(t);
  const [into, out] = await Promise.all([harness.stream('in'), harness.stream('out')]);
  const running = harness.transfer(importFrom('in'), exportTo('out'));
  assert.equal(unpackAny(WindowUpdate, await into.receive())?.update, 65_536);
  await into.send(packAny(Data, { data: randomBytes(60_000) }));
  into.end();
  await out.send(packAny(WindowUpdate, { update: 40_000 }));
  const sizes = async (count: number) => {
    const found: (number | undefined)[] = [];
    while (found.length < count) found.push(unpackAny(Data, await out.receive())?.data.byteLength);
    return found;
  };
  assert.deepEqual(await sizes(2), [32_768, 7232]);
  await out.send(packAny(WindowUpdate, { update: 1_000_000 }));
  assert.deepEqual(await sizes(1), [20_000]);
  await running;
  assert.equal(await out.receive(), undefined);
});

test('what cannot be transferred is said', async (t) => {
  const harness = await startTransfers(t);
  const { transfer } = harness;
  await assert.rejects(transfer(store('no/such:1'), store('x')), code(grpc.status.NOT_FOUND, /no\/such:1/));
  await assert.rejects(
    transfer(store('a'), exportTo('nowhere')),
    code(grpc.status.NOT_FOUND, /stream "nowhere"/),
  );
  await assert.rejects(
    transfer(exportTo('a'), store('a')),
    code(grpc.status.UNIMPLEMENTED, /ImageExportStream.*ImageStore/),
  );
  const prefixed: Any = {
    ...store('a'),
    typeUrl: 'type.googleapis.com/containerd.types.transfer.ImageStore',
  };
  await assert.rejects(transfer(prefixed, store('a')), code(grpc.status.UNIMPLEMENTED, /type\.googleapis/));
  const wanted = store('a', {
    unpacks: [{ platform: { os: 'plan9', architecture: 'amd64' }, snapshotter: '' }],
  });
  await harness.stream('in');
  await assert.rejects(transfer(importFrom('in'), wanted), code(grpc.status.INVALID_ARGUMENT, /plan9/));
});

test('streams: an id is taken once, a first message is a StreamInit, leases end theirs', async (t) => {
  const harness = await startTransfers(t);
  const first = await harness.stream('one');
  await assert.rejects(harness.stream('one'), code(grpc.status.ALREADY_EXISTS, /"one"/));
  // The same id in another namespace is another stream.
  const elsewhere = await harness.stream('one', headers({ 'containerd-namespace': 'other' }));
  first.cancel();
  await until('the id is free again', async () => {
    try {
      return await harness.stream('one');
    } catch {
      return undefined;
    }
  });
  const wrong = bidi(harness.client, StreamingDefinition, 'stream');
  const refused = assert.rejects(
    (async () => {
      for await (const _ of wrong);
    })(),
    code(grpc.status.INVALID_ARGUMENT, /StreamInit/),
  );
  wrong.write(packAny(WindowUpdate, { update: 1 }));
  await refused;

  const leased = await harness.stream(
    'leased',
    headers({ 'containerd-namespace': 'testing', 'containerd-lease': 'gone' }),
  );
  assert.equal(
    harness.streams.collect((_namespace, lease) => lease !== 'gone'),
    1,
  );
  await assert.rejects(leased.receive());
  assert.throws(() => harness.streams.get(testing, 'leased'), /leased/);
  elsewhere.cancel();
});

test('a canceled import leaves no ingest, no lease and no image', async (t) => {
  const harness = await startTransfers(t);
  await harness.put(await imageOf(2_000_000), 'a.b/c:1');
  const out = await harness.stream('out');
  const [archive] = await Promise.all([
    collect(receiveBytes(out)),
    harness.transfer(store('a.b/c:1'), exportTo('out')),
  ]);
  const into = await harness.stream('in');
  const half = sendBytes(into, inPieces(archive.subarray(0, archive.length / 2), 32_768));
  const late = harness.transfer(importFrom('in'), store('a.b/d:1'), '', { deadline: Date.now() + 1500 });
  // On a slow machine the stream may be closed before half of it is sent.
  half.catch(() => {});
  await Promise.all([assert.rejects(late, code(grpc.status.DEADLINE_EXCEEDED, /./))]);
  await until('everything is cleaned up', () => (harness.leftovers().length === 0 ? true : undefined), {
    timeoutMs: 30_000,
  });
  assert.equal(harness.image('a.b/d:1'), undefined);
  assert.throws(() => harness.streams.get(testing, 'in'));
});

test('a client that ends its stream early, or sends other things, is told', async (t) => {
  const harness = await startTransfers(t);
  const cut = await harness.stream('cut');
  await cut.send(packAny(Data, { data: randomBytes(700) }));
  cut.end();
  await assert.rejects(
    harness.transfer(importFrom('cut'), store('x')),
    code(grpc.status.INVALID_ARGUMENT, /tar|truncated/),
  );
  const odd = await harness.stream('odd');
  await odd.send(packAny(Progress, Progress.create()));
  await assert.rejects(
    harness.transfer(importFrom('odd'), store('x')),
    code(grpc.status.INVALID_ARGUMENT, /unexpected/),
  );
  await assert.rejects(
    unary(harness.client, TransferDefinition, 'transfer', {
      source: undefined,
      destination: undefined,
      options: undefined,
    }),
    code(grpc.status.INVALID_ARGUMENT, /source/),
  );
  assert.deepEqual(harness.leftovers(), []);
});
