// Every generated codec gives back what it was given: random values, extremes, unknown fields, opaque Any.
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  create,
  createFileRegistry,
  type DescField,
  type DescMessage,
  equals,
  fromBinary,
  type Message,
  ScalarType,
  toBinary,
} from '@bufbuild/protobuf';
import { WireType } from '@bufbuild/protobuf/wire';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import fc from 'fast-check';

const generated = fileURLToPath(new URL('../../../../src/api/proto/gen/', import.meta.url));

interface Codec {
  encode(message: object): { finish(): Uint8Array };
  decode(bytes: Uint8Array): object;
}

async function codecs(): Promise<Map<string, Codec>> {
  const found = new Map<string, Codec>();
  for (const file of globSync('**/*.ts', { cwd: generated })) {
    const module = (await import(`${generated}/${file}`)) as Record<string, unknown>;
    for (const value of Object.values(module)) {
      const type = (value as { $type?: unknown } | null)?.$type;
      if (typeof type === 'string') found.set(type, value as Codec);
    }
  }
  return found;
}

const registry = createFileRegistry(
  fromBinary(FileDescriptorSetSchema, readFileSync(`${generated}/descriptors.binpb`)),
);
const messages = [...registry].filter((type): type is DescMessage => type.kind === 'message');

const int64 = fc.oneof(
  fc.constantFrom(-(2n ** 63n), 2n ** 63n - 1n, -1n, 2n ** 53n + 1n, -(2n ** 53n) - 1n),
  fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n),
);
const uint64 = fc.oneof(fc.constantFrom(2n ** 64n - 1n, 2n ** 63n), fc.bigInt(0n, 2n ** 64n - 1n));
const int32 = fc.oneof(fc.constantFrom(-(2 ** 31), 2 ** 31 - 1), fc.integer());
const uint32 = fc.oneof(fc.constant(2 ** 32 - 1), fc.nat({ max: 2 ** 32 - 1 }));
const text = fc.string({ unit: 'binary', maxLength: 12 }).filter((value) => value.isWellFormed());
const bytes = fc.uint8Array({ maxLength: 12 });

function scalar(type: ScalarType): fc.Arbitrary<unknown> {
  switch (type) {
    case ScalarType.STRING:
      return text;
    case ScalarType.BYTES:
      return bytes;
    case ScalarType.BOOL:
      return fc.boolean();
    case ScalarType.INT32:
      return int32;
    case ScalarType.UINT32:
      return uint32;
    case ScalarType.INT64:
      return int64;
    case ScalarType.UINT64:
      return uint64;
    case ScalarType.DOUBLE:
      return fc.double({ noNaN: true }).map((value) => value || 0);
    default:
      throw new Error(`the contract has no scalar ${ScalarType[type]}`);
  }
}

function single(field: DescField, depth: number): fc.Arbitrary<unknown> {
  if (field.message !== undefined) return message(field.message, depth + 1);
  return field.enum === undefined ? scalar(field.scalar!) : int32;
}

function fieldValue(field: DescField, depth: number): fc.Arbitrary<unknown> {
  switch (field.fieldKind) {
    case 'list':
      return fc.array(single(field, depth), { maxLength: 3 });
    case 'map':
      // The reference codec keeps maps in plain objects, so `__proto__` has a test of its own below.
      return fc.dictionary(
        text.filter((key) => key !== '__proto__'),
        single(field, depth),
        { maxKeys: 3, noNullPrototype: true },
      );
    default:
      return single(field, depth);
  }
}

const unknownFields = fc.tuple(bytes, uint64).map(([data, number]) => [
  { no: 19_000_001, wireType: WireType.LengthDelimited, data: Uint8Array.of(data.length, ...data) },
  { no: 19_000_002, wireType: WireType.Varint, data: varint(number) },
]);

function varint(value: bigint): Uint8Array {
  const out: number[] = [];
  let rest = value;
  do {
    out.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Uint8Array.from(out);
}

function message(desc: DescMessage, depth: number): fc.Arbitrary<Message> {
  const fields = desc.fields.filter((field) => field.message === undefined || depth < 4);
  const shape = Object.fromEntries(fields.map((field) => [field.localName, fieldValue(field, depth)]));
  return fc
    .tuple(fc.record(shape, { requiredKeys: [] }), fc.option(unknownFields, { nil: undefined }))
    .map(([init, unknown]) => {
      const made = create(desc, init as never);
      // The generated code reads a field mask as its list of paths, so a mask alone has no room for unknown fields.
      if (unknown !== undefined && desc.typeName !== 'google.protobuf.FieldMask') made.$unknown = unknown;
      return made;
    });
}

test('each message survives decode and encode by the generated codec', async (t) => {
  const byType = await codecs();
  for (const desc of messages) {
    await t.test(desc.typeName, () => {
      const codec = byType.get(desc.typeName);
      assert.ok(codec !== undefined, `${desc.typeName} has no codec`);
      fc.assert(
        fc.property(message(desc, 0), (value) => {
          const again = fromBinary(desc, codec.encode(codec.decode(toBinary(desc, value))).finish());
          assert.ok(equals(desc, value, again, { unknown: true, registry }));
        }),
        { numRuns: 40 },
      );
    });
  }
});

test('64-bit numbers are bigint, nanosecond timestamps before 1970 are exact, Any is bytes', async () => {
  const { Metric } = await import('../../../../src/api/proto/gen/types/metrics.ts');
  const { Descriptor } = await import('../../../../src/api/proto/gen/types/descriptor.ts');
  const size = 2n ** 63n - 1n;
  const descriptor = Descriptor.fromPartial({ digest: 'd', size });
  assert.equal(Descriptor.decode(Descriptor.encode(descriptor).finish()).size, size);
  const metric = Metric.fromPartial({
    timestamp: { seconds: -62_135_596_800n, nanos: 999_999_999 },
    data: { typeUrl: 'x.Y', value: Uint8Array.of(0xff, 0x00, 0xfe) },
  });
  const again = Metric.decode(Metric.encode(metric).finish());
  assert.deepEqual({ ...again.timestamp, _unknownFields: 0 }, { ...metric.timestamp, _unknownFields: 0 });
  assert.deepEqual([...again.data!.value], [0xff, 0x00, 0xfe]);
});

test('a label named __proto__ is only a label', async () => {
  const { Descriptor } = await import('../../../../src/api/proto/gen/types/descriptor.ts');
  const annotations = new Map([
    ['__proto__', 'a'],
    ['constructor', 'b'],
  ]);
  const again = Descriptor.decode(Descriptor.encode(Descriptor.fromPartial({ annotations })).finish());
  assert.deepEqual([...again.annotations], [...annotations]);
});
