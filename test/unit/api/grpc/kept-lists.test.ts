// Lists that are kept are those that reading the records anew would give, whatever changes and whoever still sends them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Encoded } from '../../../../src/api/grpc/bind.ts';
import { KeptLists } from '../../../../src/api/grpc/kept-lists.ts';
import { FramedResponse } from '../../../../src/api/grpc/pool.ts';
import { listInFieldOne } from '../../../../src/api/grpc/records.ts';
import { compileFilters } from '../../../../src/api/model/filter.ts';
import { Container } from '../../../../src/api/proto/gen/services/containers/v1/containers.ts';

const places = { labels: { kind: 'map', at: [2] } } as const;
const everything = compileFilters([]);
const allocate = (bytes: number) => new Encoded(Buffer.alloc(bytes));
const mebibyte = 1024 * 1024;

function record(id: string, labels: Record<string, string> = {}, specBytes = 100): Buffer {
  const spec = { typeUrl: 'spec', value: Buffer.alloc(specBytes, id) };
  const container = Container.fromPartial({ id, labels: new Map(Object.entries(labels)), spec });
  return Buffer.from(Container.encode(container).finish());
}

/** Records of namespaces, whose reader lends one buffer for all of them. */
class Source {
  readonly records = new Map<string, Buffer[]>();
  changes: number | undefined = 0;
  reads = 0;

  set(namespace: string, records: Buffer[]): void {
    this.records.set(namespace, records);
    if (this.changes !== undefined) this.changes++;
  }
  version(): number | undefined {
    return this.changes;
  }
  each(namespace: string, visit: (bytes: Buffer, lengthBytes: number) => void): void {
    this.reads++;
    const lent = Buffer.alloc(2 * mebibyte);
    for (const bytes of this.records.get(namespace) ?? []) {
      bytes.copy(lent);
      visit(lent, bytes.length);
    }
  }
  expected(namespace: string): Buffer {
    return Buffer.from(listInFieldOne(this.records.get(namespace) ?? []).bytes);
  }
}

function newLists() {
  const source = new Source();
  const lists = new KeptLists(source, places);
  const answer = (namespace: string, filter = everything) => lists.answer(namespace, filter, allocate);
  return { source, lists, answer };
}

test('a list is read once for each change, and has a frame in front', () => {
  const { source, answer } = newLists();
  assert.equal(answer('none').bytes.length, 0);
  for (const count of [1, 7, 1000, 3, 0, 1]) {
    source.set(
      'n',
      Array.from({ length: count }, (_, i) => record(`c${i}`)),
    );
    source.set('small', [record('one')]);
    const readsBefore = source.reads;
    for (let i = 0; i < 3; i++) {
      const response = answer('n');
      assert.deepEqual(Buffer.from(response.bytes), source.expected('n'));
      if (!(response instanceof FramedResponse)) continue;
      const frame = response.hand();
      assert.equal(frame[0], 0);
      assert.equal(frame.readUInt32BE(1), response.bytes.length);
      assert.deepEqual(frame.subarray(5), source.expected('n'));
      response.onSent();
    }
    assert.equal(source.reads, readsBefore + 1);
    assert.deepEqual(Buffer.from(answer('small').bytes), source.expected('small'));
  }
});

test('a response that is still being sent stays as it is when the records change', () => {
  const { source, answer } = newLists();
  source.set('n', [record('before', {}, 9000)]);
  const before = source.expected('n');
  const sending = [answer('n'), answer('n'), answer('n')] as FramedResponse[];
  const frames = sending.map((response) => response.hand());
  sending[0]?.onSent();
  sending[1]?.onSent(new Error('the stream is closed'));
  for (const name of ['after', 'later', 'last']) {
    source.set('n', [record(name, {}, 9000)]);
    const response = answer('n') as FramedResponse;
    assert.deepEqual(response.hand().subarray(5), source.expected('n'));
    response.onSent();
    for (const frame of frames) assert.deepEqual(frame.subarray(5), before);
    sending[2]?.onSent();
  }
});

test('a filter keeps what it keeps of the records one by one', () => {
  const { source, answer } = newLists();
  const marks = [...'aabbbabaaabb'];
  const records = marks.map((mark, i) => record(`c${i}`, { mark, all: 'x' }, i * 50));
  source.set('n', records);
  for (const [filter, kept] of [
    ['labels.mark==a', records.filter((_, i) => marks[i] === 'a')],
    ['labels.mark==b', records.filter((_, i) => marks[i] === 'b')],
    ['labels.all==x', records],
    ['labels.none==x', []],
  ] as const) {
    const response = answer('n', compileFilters([filter]));
    assert.deepEqual(Buffer.from(response.bytes), Buffer.from(listInFieldOne(kept).bytes), filter);
  }
  assert.equal(source.reads, 1);
});

test('without a version everything is read anew', () => {
  const { source, answer } = newLists();
  source.changes = undefined;
  for (const name of ['one', 'two']) {
    source.set('n', [record(name)]);
    assert.deepEqual(Buffer.from(answer('n').bytes), source.expected('n'));
  }
});

test('a source that fails in the middle leaves nothing behind that looks whole', () => {
  const { source, answer } = newLists();
  source.set('n', [record('a'), record('b')]);
  answer('n');
  source.set('n', [record('c'), record('d')]);
  const each = source.each.bind(source);
  let visited = 0;
  source.each = (namespace, visit) =>
    each(namespace, (bytes, length) => {
      if (++visited === 2) throw new Error('unreadable');
      visit(bytes, length);
    });
  assert.throws(() => answer('n'), /unreadable/);
  assert.deepEqual(Buffer.from(answer('n').bytes), source.expected('n'));
});

test('what is kept has a limit, for one list and for all, and is given back when nobody asks', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { source, lists, answer } = newLists();
  const big = Array.from({ length: 13 }, (_, i) => record(`c${i}`, { odd: String(i % 2) }, mebibyte));
  for (const name of ['a', 'b', 'c', 'd']) {
    source.set(name, big);
    assert.ok(source.expected(name).equals(answer(name).bytes));
    assert.ok(lists.keptBytes <= 32 * mebibyte);
  }
  assert.ok(lists.keptBytes > 0);
  source.set('long', [...big, ...big]);
  for (let i = 0; i < 2; i++) {
    assert.ok(source.expected('long').equals(answer('long').bytes));
    const odd = answer('long', compileFilters(['labels.odd==1']));
    const expected = [...big, ...big].filter((_, n) => (n % 13) % 2 === 1);
    assert.ok(Buffer.from(listInFieldOne(expected).bytes).equals(odd.bytes));
  }
  // It has become short again.
  source.set('long', big.slice(0, 2));
  for (let i = 0; i < 2; i++) {
    assert.ok(source.expected('long').equals(answer('long').bytes));
  }
  const reads = source.reads;
  answer('long');
  assert.equal(source.reads, reads);
  t.mock.timers.tick(60_000);
  assert.equal(lists.keptBytes, 0);
  assert.ok(source.expected('long').equals(answer('long').bytes));
});
