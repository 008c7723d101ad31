// Ingests against a content service that resumes, locks, refuses and disappears.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Services } from '../../../../src/api/client/connection.ts';
import { contentClient, type IngestOptions } from '../../../../src/api/client/content.ts';
import { codeOf, fail } from '../../../../src/api/model/errors.ts';
import type { Digest } from '../../../../src/api/model/ids.ts';
import {
  WriteAction,
  type WriteContentRequest,
} from '../../../../src/api/proto/gen/services/content/v1/content.ts';

interface Script {
  /** Bytes that an earlier ingest has left. */
  stored?: number;
  /** Throws to fail a request. */
  onRequest?: (request: Partial<WriteContentRequest>, opening: number) => void;
}

function fakeServices(script: Script) {
  const requests: Partial<WriteContentRequest>[] = [];
  const aborted: string[] = [];
  let openings = 0;
  let stored = script.stored ?? 0;
  const write = () => {
    const opening = openings++;
    const answers: (() => { offset: bigint })[] = [];
    return {
      async send(request: Partial<WriteContentRequest>) {
        requests.push(request);
        answers.push(() => {
          script.onRequest?.(request, opening);
          if (request.action === WriteAction.WRITE) {
            assert.equal(request.offset, BigInt(stored));
            stored += request.data?.byteLength ?? 0;
          }
          return { offset: BigInt(stored) };
        });
      },
      end() {},
      cancel() {},
      responses: {
        async next() {
          return { done: false, value: answers.shift()!() };
        },
        async return() {
          return { done: true, value: undefined };
        },
      },
    };
  };
  const content = { write, abort: async ({ ref }: { ref: string }) => void aborted.push(ref) };
  return { services: { content } as unknown as Services, requests, aborted };
}

const bytes = new Uint8Array(5_000_000).map((_, i) => i & 0xff);
const options = (extra: Partial<IngestOptions> = {}): IngestOptions => ({
  ref: 'layer-x',
  expected: `sha256:${'0'.repeat(64)}` as Digest,
  sizeBytes: BigInt(bytes.byteLength),
  source: async function* (offset) {
    for (let at = offset; at < bytes.byteLength; at += 100_000) yield bytes.subarray(at, at + 100_000);
  },
  ...extra,
});

test('small chunks are joined, and committed at the whole offset with the labels', async () => {
  const { services, requests } = fakeServices({});
  const told: bigint[] = [];
  const labels = new Map([['k', 'v']]);
  const outcome = await contentClient(services).ingest(
    options({ labels, onProgress: (at) => told.push(at) }),
  );
  assert.equal(outcome, 'written');
  const writes = requests.filter(({ action }) => action === WriteAction.WRITE);
  assert.ok(writes.length <= 5);
  assert.ok(Buffer.concat(writes.map(({ data }) => data!)).equals(bytes));
  const commit = requests.at(-1)!;
  assert.equal(commit.action, WriteAction.COMMIT);
  assert.equal(commit.offset, BigInt(bytes.byteLength));
  assert.equal(commit.labels?.get('k'), 'v');
  assert.deepEqual([told[0], told.at(-1)], [0n, BigInt(bytes.byteLength)]);
});

test('an ingest goes on where it ended; a complete one only commits', async () => {
  const half = fakeServices({ stored: 2_500_000 });
  let asked: number | undefined;
  const source: IngestOptions['source'] = (offset, signal) => {
    asked = offset;
    return options().source(offset, signal);
  };
  await contentClient(half.services).ingest(options({ source }));
  assert.equal(asked, 2_500_000);
  const whole = fakeServices({ stored: bytes.byteLength });
  asked = undefined;
  await contentClient(whole.services).ingest(options({ source }));
  assert.equal(asked, undefined);
  assert.deepEqual(
    whole.requests.map(({ action }) => action),
    [WriteAction.STAT, WriteAction.COMMIT],
  );
});

test('content that is there is not written, at the opening or at the commit', async () => {
  for (const at of [WriteAction.STAT, WriteAction.COMMIT]) {
    const { services } = fakeServices({
      onRequest({ action }) {
        if (action === at) throw fail('already-exists', 'x');
      },
    });
    assert.equal(await contentClient(services).ingest(options()), 'exists');
  }
});

test('a locked ref is waited for, until the signal fires', async () => {
  const { services } = fakeServices({
    onRequest(_, opening) {
      if (opening < 3) throw fail('unavailable', 'ref layer-x locked for 1s');
    },
  });
  assert.equal(await contentClient(services).ingest(options()), 'written');
  const always = fakeServices({
    onRequest() {
      throw fail('unavailable', 'ref layer-x locked for 1s');
    },
  });
  const stop = new AbortController();
  const waiting = contentClient(always.services).ingest(options({ signal: stop.signal }));
  stop.abort();
  await assert.rejects(waiting);
});

test('bytes that fail their check are dropped; a lost daemon leaves them to be resumed', async () => {
  const lying = fakeServices({
    onRequest({ action }) {
      if (action === WriteAction.COMMIT) throw fail('failed-precondition', 'unexpected commit digest');
    },
  });
  assert.equal(await contentClient(lying.services).ingest(options()).catch(codeOf), 'failed-precondition');
  assert.deepEqual(lying.aborted, ['layer-x']);
  const lost = fakeServices({
    onRequest({ action }) {
      if (action === WriteAction.WRITE) throw fail('unavailable', 'Connection dropped');
    },
  });
  assert.equal(await contentClient(lost.services).ingest(options()).catch(codeOf), 'unavailable');
  assert.deepEqual(lost.aborted, []);
});
