// Header blocks: the examples of RFC 7541, appendix C, and what is no header block.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeHeaders, HpackDecoder } from '../../../../src/api/h2/hpack.ts';
import { huffmanDecode } from '../../../../src/api/h2/huffman.ts';
import { codeOf } from '../../../../src/api/model/errors.ts';

const hex = (text: string): Buffer => Buffer.from(text, 'hex');
const decoder = (tableBytes?: number): HpackDecoder => new HpackDecoder(65_536, tableBytes);

function pairs(fields: readonly string[]): string[] {
  return Array.from({ length: fields.length / 2 }, (_, i) => `${fields[2 * i]}: ${fields[2 * i + 1]}`);
}

test('C.2: each kind of field', () => {
  const cases: [string, string, number][] = [
    ['400a637573746f6d2d6b65790d637573746f6d2d686561646572', 'custom-key: custom-header', 55],
    ['040c2f73616d706c652f70617468', ':path: /sample/path', 0],
    ['100870617373776f726406736563726574', 'password: secret', 0],
    ['82', ':method: GET', 0],
  ];
  for (const [bytes, field, tableBytes] of cases) {
    const one = decoder();
    assert.deepEqual(pairs(one.decode(hex(bytes)).fields), [field]);
    assert.equal(one.tableBytes, tableBytes);
  }
});

const requests = [
  [':method: GET', ':scheme: http', ':path: /', ':authority: www.example.com'],
  [':method: GET', ':scheme: http', ':path: /', ':authority: www.example.com', 'cache-control: no-cache'],
  [
    ':method: GET',
    ':scheme: https',
    ':path: /index.html',
    ':authority: www.example.com',
    'custom-key: custom-value',
  ],
];

test('C.3 and C.4: requests on one connection, without and with Huffman code', () => {
  const plain = [
    '828684410f7777772e6578616d706c652e636f6d',
    '828684be58086e6f2d6361636865',
    '828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565',
  ];
  const coded = [
    '828684418cf1e3c2e5f23a6ba0ab90f4ff',
    '828684be5886a8eb10649cbf',
    '828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf',
  ];
  for (const blocks of [plain, coded]) {
    const one = decoder();
    for (const [i, tableBytes] of [57, 110, 164].entries()) {
      assert.deepEqual(pairs(one.decode(hex(blocks[i]!)).fields), requests[i]);
      assert.equal(one.tableBytes, tableBytes);
    }
  }
});

test('C.5 and C.6: responses with a table of 256 bytes, which evicts', () => {
  const date = (second: number) => `date: Mon, 21 Oct 2013 20:13:${second} GMT`;
  const location = 'location: https://www.example.com';
  const cookie = 'set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1';
  const responses = [
    [':status: 302', 'cache-control: private', date(21), location],
    [':status: 307', 'cache-control: private', date(21), location],
    [':status: 200', 'cache-control: private', date(22), location, 'content-encoding: gzip', cookie],
  ];
  const plain = [
    '4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d',
    '4803333037c1c0bf',
    '88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31',
  ];
  const coded = [
    '488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3',
    '4883640effc1c0bf',
    '88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007',
  ];
  for (const blocks of [plain, coded]) {
    const one = decoder(256);
    for (const [i, tableBytes] of [222, 222, 215].entries()) {
      assert.deepEqual(pairs(one.decode(hex(blocks[i]!)).fields), responses[i]);
      assert.equal(one.tableBytes, tableBytes);
    }
  }
});

test('what is no header block is refused', () => {
  const bad: Record<string, string> = {
    'index 0': '80',
    'an index beyond the table': 'be',
    'a name beyond the table': '7e0161',
    'a string that is cut off': '400a6375',
    'a length that is cut off': '407f',
    'no value': '4001',
    'an integer without end': 'ffffffffffffffff7f',
    'a table larger than was allowed': '3fe21f',
    'a table size after a field': '8220',
    'a Huffman string with the end of the string in it': '4084ffffffff0161',
    'eight bits of padding': '4082f1ff0161',
    'padding that is not ones': '408100010161',
  };
  for (const [what, bytes] of Object.entries(bad)) {
    assert.throws(() => decoder().decode(hex(bytes)), { code: 'invalid-argument' }, what);
  }
});

test('a table size update evicts, and an entry larger than the table empties it', () => {
  const one = decoder();
  one.decode(hex('400a637573746f6d2d6b65790d637573746f6d2d686561646572'));
  assert.deepEqual(pairs(one.decode(hex('be')).fields), ['custom-key: custom-header']);
  one.decode(hex('20'));
  assert.equal(one.tableBytes, 0);
  assert.throws(() => one.decode(hex('be')), { code: 'invalid-argument' });
  one.decode(hex('3fe11f'));
  one.decode(hex('400161'.concat('0162')));
  assert.equal(one.tableBytes, 34);
  one.decode(Buffer.concat([hex('400161'), hex('7fa11f'), Buffer.alloc(4128, 'x')]));
  assert.equal(one.tableBytes, 0);
});

test('a list beyond the limit is measured to its end, so that the table stays right, but not kept', () => {
  const one = new HpackDecoder(100);
  const block = Buffer.concat([hex('400161'), hex('0a'), Buffer.alloc(10, 'v'), Buffer.alloc(1000, 0xbe)]);
  const { fields, listBytes } = one.decode(block);
  assert.equal(listBytes, 43 * 1001);
  assert.equal(fields.length, 4);
  assert.deepEqual(pairs(one.decode(hex('be')).fields), ['a: vvvvvvvvvv']);
});

test('property: written headers are read as they were', () => {
  const name = fc.stringMatching(/^[a-z][a-z-]{0,20}$/);
  const value = fc.stringMatching(/^[!-~]{0,300}$/);
  fc.assert(
    fc.property(fc.array(fc.tuple(name, value), { maxLength: 10 }), (list) => {
      const headers = Object.fromEntries([[':status', '200'], ...list]);
      const { fields } = decoder().decode(encodeHeaders(headers));
      assert.deepEqual(fields, Object.entries(headers).flat());
    }),
  );
});

test('property: no bytes throw anything but an error with a code', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 4 }), (blocks) => {
      const one = decoder();
      for (const block of blocks) {
        try {
          one.decode(block);
        } catch (error) {
          assert.equal(codeOf(error), 'invalid-argument');
        }
        assert.ok(one.tableBytes <= 4096);
      }
    }),
    { numRuns: 500 },
  );
});

test('many insertions evict the oldest first, for good', () => {
  const one = decoder();
  for (let i = 0; i < 5000; i++) {
    const value = Buffer.from(String(i).padStart(8, '0'));
    one.decode(Buffer.concat([hex('400161'), hex('08'), value]));
  }
  // An entry has 41 bytes: 99 of them fit.
  assert.equal(one.tableBytes, 41 * 99);
  assert.deepEqual(pairs(one.decode(hex('be')).fields), ['a: 00004999']);
  assert.deepEqual(pairs(one.decode(Buffer.of(0xff, 62 + 98 - 127)).fields), ['a: 00004901']);
  assert.throws(() => one.decode(Buffer.of(0xff, 62 + 99 - 127)), { code: 'invalid-argument' });
});

test('Huffman code: the empty string, and every length of padding', () => {
  assert.equal(huffmanDecode(Buffer.alloc(0), 0, 0), '');
  // "0" has five bits of zeros: 5, 10, ... bits leave 3, 6, 1, 4, 7 and 2 bits of padding.
  for (let count = 1; count <= 8; count++) {
    const bits = '0'.repeat(5 * count).padEnd(Math.ceil((5 * count) / 8) * 8, '1');
    const bytes = Buffer.from(bits.match(/.{8}/g)!.map((byte) => Number.parseInt(byte, 2)));
    assert.equal(huffmanDecode(bytes, 0, bytes.length), '0'.repeat(count));
  }
  assert.equal(huffmanDecode(Buffer.of(0x07, 0xff), 0, 2), undefined);
});
