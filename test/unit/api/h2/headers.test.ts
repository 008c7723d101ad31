// Header lists as requests, and when the same bytes mean the same request.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HeadersCache, type RequestHeaders, requestOf } from '../../../../src/api/h2/headers.ts';
import { encodeHeaders, HpackDecoder } from '../../../../src/api/h2/hpack.ts';

const good = { ':method': 'POST', ':scheme': 'http', ':path': '/a/B', te: 'trailers', 'x-y': 'z' };
const fieldsOf = (headers: Record<string, string>): string[] => Object.entries(headers).flat();

test('a request has its pseudo-headers, each once and before the others', () => {
  const request = requestOf(fieldsOf({ ...good, 'content-length': '12' }));
  assert.equal(request?.method, 'POST');
  assert.equal(request?.path, '/a/B');
  assert.equal(request?.bodyBytes, 12);
  assert.equal(requestOf(fieldsOf(good))?.bodyBytes, undefined);
  assert.equal(requestOf([':method', 'CONNECT', ':authority', 'a:1'])?.method, 'CONNECT');
});

test('malformed lists', () => {
  const without = (name: string) => fieldsOf(good).filter((_, i, all) => all[i & ~1] !== name);
  const lists: Record<string, string[]> = {
    empty: [],
    'no method': without(':method'),
    'no scheme': without(':scheme'),
    'no path': without(':path'),
    'an empty path': fieldsOf({ ...good, ':path': '' }),
    'a method twice': [':method', 'POST', ...fieldsOf(good)],
    'a response': [':status', '200', ...fieldsOf(good)],
    'an unknown pseudo-header': [':what', 'x', ...fieldsOf(good)],
    'a pseudo-header after others': [...without(':path'), ':path', '/'],
    'an upper-case name': [...fieldsOf(good), 'X-Y', 'z'],
    'an empty name': [...fieldsOf(good), '', 'z'],
    'a name with a space': [...fieldsOf(good), 'x y', 'z'],
    'a name with a colon': [...fieldsOf(good), 'x:y', 'z'],
    'a value with a line end': [...fieldsOf(good), 'x', 'a\nb'],
    'a value with a zero': [...fieldsOf(good), 'x', 'a\0b'],
    'a value that begins with a space': [...fieldsOf(good), 'x', ' a'],
    'a value that ends with a tab': [...fieldsOf(good), 'x', 'a\t'],
    'a header of HTTP/1': [...fieldsOf(good), 'connection', 'close'],
    'te other than trailers': fieldsOf({ ...good, te: 'gzip' }),
    'a length that is no number': fieldsOf({ ...good, 'content-length': '-1' }),
    'CONNECT with a path': fieldsOf({ ':method': 'CONNECT', ':authority': 'a', ':path': '/' }),
  };
  for (const [what, fields] of Object.entries(lists)) assert.equal(requestOf(fields), undefined, what);
});

function cacheOf(): { cache: HeadersCache; read: (bytes: Buffer) => RequestHeaders } {
  const cache = new HeadersCache(new HpackDecoder(4096), 4096);
  return {
    cache,
    read: (bytes) => {
      const request = cache.read(bytes, 0, bytes.length);
      assert.ok(typeof request !== 'string', String(request));
      return request;
    },
  };
}

const literal = (name: string, value: string): Buffer =>
  Buffer.concat([
    Buffer.of(0x40, name.length),
    Buffer.from(name),
    Buffer.of(value.length),
    Buffer.from(value),
  ]);

test('the same bytes are the same request as long as the table is the same', () => {
  const { cache, read } = cacheOf();
  const plain = encodeHeaders(good);
  assert.equal(read(plain), read(plain));
  const first = Buffer.concat([plain, literal('a', '1')]);
  // A block that changes the table is never remembered.
  assert.notEqual(read(first), read(first));
  const indexed = Buffer.concat([plain, Buffer.of(0xbe)]);
  const one = read(indexed);
  assert.equal(read(indexed), one);
  assert.deepEqual(one.fields.slice(-2), ['a', '1']);
  read(Buffer.concat([plain, literal('b', '2')]));
  const two = read(indexed);
  assert.notEqual(two, one);
  assert.deepEqual(two.fields.slice(-2), ['b', '2']);
  // What refers to no entry means the same for ever.
  assert.equal(read(plain), read(plain));
  assert.ok(cache.size <= 3);
});

test('the cache has a limit, and large blocks stay out of it', () => {
  const { cache, read } = cacheOf();
  for (let i = 0; i < 1000; i++) read(encodeHeaders({ ...good, i: String(i) }));
  assert.ok(cache.size <= 64);
  const large = encodeHeaders({ ...good, large: 'x'.repeat(2000) });
  assert.notEqual(read(large), read(large));
  const tooLarge = encodeHeaders({ ...good, large: 'x'.repeat(5000) });
  assert.equal(cache.read(tooLarge, 0, tooLarge.length), 'too-large');
  assert.equal(cache.read(encodeHeaders({ a: 'b' }), 0, 5), 'malformed');
});
