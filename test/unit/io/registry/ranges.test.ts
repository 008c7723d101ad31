// A blob in several requests at once: in order whatever comes first, within the requests and bytes that are allowed,
// and in one stream where a registry has no ranges or sends other ones.
import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { test } from 'node:test';
import fc from 'fast-check';
import { limiter } from '../../../../src/api/model/limiter.ts';
import { createAuthorizer } from '../../../../src/io/registry/auth.ts';
import { defaultHosts } from '../../../../src/io/registry/hosts.ts';
import { fetchRanges, type RangeSettings, rangeSettings } from '../../../../src/io/registry/ranges.ts';
import { createSession } from '../../../../src/io/registry/session.ts';
import { createTransport } from '../../../../src/io/registry/transport.ts';
import { type Answer, collect, fakeRegistry, layerOf, type Seen } from './fake-registry.ts';

const blob = new Uint8Array(300_000).map((_, i) => (i * 7 + (i >> 8)) & 0xff);
const settings: RangeSettings = { chunkBytes: 40_000, chunksMax: 3 };

async function fetchWith(
  answer: Answer,
  {
    offset = 0,
    requestsMax = 3,
    signal,
  }: { offset?: number; requestsMax?: number; signal?: AbortSignal } = {},
) {
  await using fake = await fakeRegistry(answer);
  await using transport = createTransport();
  const authorizer = createAuthorizer({ transport, userAgent: 't', nowMs: () => 0 });
  const deps = { transport, authorizer, userAgent: 't', sleep: async () => {} };
  const hosts = await defaultHosts({ plainHttp: true }).hostsFor(fake.host);
  const sessions = hosts.map((host) => createSession(host, deps));
  const reference = { name: 'x', host: fake.host, repository: 'a/b', tag: 't', digest: undefined };
  const { take } = limiter(requestsMax);
  const source = { sessions, deps, reference, descriptor: layerOf(blob), signal };
  const bytes = await collect(fetchRanges(source, offset, { ...settings, take }));
  return { bytes, seen: fake.seen, take };
}

function span({ headers }: Seen): [number, number] {
  const m = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '');
  return m === null ? [0, blob.length] : [Number(m[1]), m[2] === '' ? blob.length : Number(m[2]) + 1];
}

function sendRange(response: ServerResponse, [from, to]: [number, number], bytes = blob.subarray(from, to)) {
  response.writeHead(206, {
    'content-length': to - from,
    'content-range': `bytes ${from}-${to - 1}/${blob.length}`,
  });
  response.end(bytes);
}

const honest: Answer = (request, response) => sendRange(response, span(request));

test('the ranges cover the blob once, from the offset on', async () => {
  for (const offset of [0, 1, 123_456, blob.length - 1]) {
    const { bytes, seen } = await fetchWith(honest, { offset });
    assert.ok(bytes.equals(blob.subarray(offset)), String(offset));
    const spans = seen.map(span).sort(([a], [b]) => a - b);
    assert.equal(spans[0]![0], offset);
    for (const [i, [from]] of spans.entries()) if (i > 0) assert.equal(from, spans[i - 1]![1]);
    assert.equal(spans.at(-1)![1], blob.length);
  }
});

test('answers that come in another order are handed on in theirs, with no more requests than allowed', async () => {
  let open = 0;
  let openMax = 0;
  const waiting: (() => void)[] = [];
  const { bytes } = await fetchWith((request, response) => {
    open += 1;
    openMax = Math.max(openMax, open);
    const answer = (): void => {
      open -= 1;
      sendRange(response, span(request));
    };
    // The first is needed to begin; from then on the one that came last is answered first.
    if (span(request)[0] === 0) return answer();
    waiting.push(answer);
    setImmediate(() => waiting.pop()?.());
  });
  assert.ok(bytes.equals(blob));
  assert.ok(openMax <= 3, String(openMax));
});

test('requests wait for a place, and leave all places free', async () => {
  let open = 0;
  const { bytes, take } = await fetchWith(
    (request, response) => {
      open += 1;
      assert.equal(open, 1);
      sendRange(response, span(request));
      open -= 1;
    },
    { requestsMax: 1 },
  );
  assert.ok(bytes.equals(blob));
  (await take())();
});

test('a registry without ranges is read in the one stream that it sends', async () => {
  for (const offset of [0, 50_000]) {
    const { bytes, seen } = await fetchWith((_, response) => void response.end(blob), { offset });
    assert.ok(bytes.equals(blob.subarray(offset)));
    assert.equal(seen.length, 1);
  }
});

test('a registry that refuses ranges, or sends other ones, is asked without', async () => {
  for (const status of [400, 403, 416, 501]) {
    const { bytes } = await fetchWith((request, response) => {
      if (request.headers.range === undefined) response.end(blob);
      else response.writeHead(status).end();
    });
    assert.ok(bytes.equals(blob), String(status));
  }
  // Only later ones are wrong: what came so far counts.
  const { bytes, seen } = await fetchWith((request, response) => {
    const [from, to] = span(request);
    if (from === 0 || request.headers.range?.endsWith('-')) sendRange(response, [from, to]);
    else sendRange(response, [from - 1, to - 1]);
  });
  assert.ok(bytes.equals(blob));
  assert.ok(seen.some(({ headers }) => headers.range === 'bytes=40000-'));
});

test('ranges that are cut or too short are taken up where they ended', async () => {
  const { bytes } = await fetchWith((request, response, count) => {
    const [from, to] = span(request);
    const rest = blob.subarray(from, to);
    if (rest.length < 10_000) return sendRange(response, [from, to]);
    const part = rest.subarray(0, 9_000);
    if (count % 2 === 0) return sendRange(response, [from, from + part.length], part);
    response.writeHead(206, {
      'content-length': to - from,
      'content-range': `bytes ${from}-${to - 1}/${blob.length}`,
    });
    response.write(part, () => response.destroy());
  });
  assert.ok(bytes.equals(blob));
});

test('a range that is longer than asked for ends where it was to end', async () => {
  const { bytes } = await fetchWith((request, response) => {
    const [from] = span(request);
    sendRange(response, [from, blob.length]);
  });
  assert.ok(bytes.equals(blob));
});

test('what the registry says without a range is what is told', async () => {
  const refused = fetchWith((_, response) => void response.writeHead(404).end());
  await assert.rejects(refused, { code: 'not-found' });
  const down = fetchWith((request, response) => {
    if (span(request)[0] === 0 && request.headers.range !== undefined) sendRange(response, span(request));
    else response.destroy();
  });
  await assert.rejects(down, { code: 'unavailable' });
});

test('an abort ends all requests', async () => {
  const stop = new AbortController();
  await assert.rejects(
    fetchWith(
      (request, response) => {
        if (span(request)[0] === 0) return sendRange(response, span(request));
        response.writeHead(206, { 'content-range': `bytes ${span(request)[0]}-1/1` });
        response.flushHeaders();
        stop.abort();
      },
      { signal: stop.signal },
    ),
    (error: Error & { code?: unknown }) => error.name === 'AbortError' || error.code === 'canceled',
  );
});

test('small buffers and single requests mean one stream; no setting holds more than 64 MiB', () => {
  assert.equal(rangeSettings(0, 8), undefined);
  assert.equal(rangeSettings(511, 8), undefined);
  assert.equal(rangeSettings(512, 1), undefined);
  fc.assert(
    fc.property(
      fc.integer({ min: 512, max: 2 ** 30 }),
      fc.integer({ min: 2, max: 1000 }),
      (bytes, requests) => {
        const { chunkBytes, chunksMax } = rangeSettings(bytes, requests)!;
        assert.ok(chunkBytes * chunksMax <= 64 * 1024 * 1024 && chunksMax >= 2 && chunksMax <= requests);
      },
    ),
  );
});
