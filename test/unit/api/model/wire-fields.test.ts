// Fields read from encoded messages are those that the generated codec decodes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { mapEntry, nonEmpty } from '../../../../src/api/model/filter.ts';
import { recordFields } from '../../../../src/api/model/wire-fields.ts';
import { Container } from '../../../../src/api/proto/gen/services/containers/v1/containers.ts';
import { Image } from '../../../../src/api/proto/gen/services/images/v1/images.ts';

const containers = recordFields({
  id: { kind: 'string', at: [1] },
  image: { kind: 'string', at: [3], always: true },
  'runtime.name': { kind: 'string', at: [4, 1] },
  labels: { kind: 'map', at: [2] },
});
const images = recordFields({
  'target.digest': { kind: 'string', at: [3, 2] },
  annotations: { kind: 'map', at: [3, 5] },
});

const text = fc.string({ unit: 'grapheme', maxLength: 200 });
const labels = fc
  .array(fc.tuple(fc.constantFrom('', 'a', 'b', 'x.y/z', 'é'), text))
  .map((pairs) => new Map(pairs));
const any = fc.record({ typeUrl: text, value: fc.uint8Array({ maxLength: 300 }) });
const container = fc.record(
  {
    id: text,
    labels,
    image: text,
    runtime: fc.record({ name: text, options: any }),
    spec: any,
    snapshotter: text,
    createdAt: fc.record({ seconds: fc.bigInt({ min: 0n, max: 2n ** 40n }), nanos: fc.nat(999_999_999) }),
    extensions: fc.array(fc.tuple(text, any)).map((pairs) => new Map(pairs)),
  },
  { requiredKeys: [] },
);

test('strings, nested strings and entries of maps', () => {
  fc.assert(
    fc.property(container, (given) => {
      const bytes = Container.encode(Container.fromPartial(given)).finish();
      const message = Container.decode(bytes);
      const lookup = containers.of(bytes);
      assert.equal(lookup(['id']), nonEmpty(message.id));
      assert.equal(lookup(['image']), message.image);
      assert.equal(lookup(['runtime', 'name']), nonEmpty(message.runtime?.name ?? ''));
      for (const path of [
        ['labels', 'a'],
        ['labels', 'x', 'y/z'],
        ['labels', 'é'],
        ['labels', ''],
        ['labels', 'none'],
      ]) {
        assert.equal(lookup(path), mapEntry(message.labels, path), path.join('.'));
      }
      for (const path of [
        ['labels'],
        ['id', 'x'],
        ['runtime'],
        ['runtime.name'],
        ['spec'],
        ['constructor'],
        [],
      ]) {
        assert.equal(lookup(path), undefined, path.join('.'));
      }
    }),
  );
});

test('maps of nested messages, and the last of repeated fields', () => {
  const one = Image.fromPartial({ target: { digest: 'first', annotations: new Map([['k', 'v']]) } });
  const two = Image.fromPartial({
    target: {
      digest: 'second',
      annotations: new Map([
        ['k', 'w'],
        ['l', ''],
      ]),
    },
  });
  const lookup = images.of(Buffer.concat([one, two].map((image) => Image.encode(image).finish())));
  assert.equal(lookup(['target', 'digest']), 'second');
  assert.equal(lookup(['annotations', 'k']), 'w');
  assert.equal(lookup(['annotations', 'l']), '');
  assert.equal(images.of(new Uint8Array(0))(['target', 'digest']), undefined);
});
