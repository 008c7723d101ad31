// Compares the generated descriptors with the wire contract, fact by fact and in both directions.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import {
  createFileRegistry,
  type DescField,
  type DescMethod,
  fromBinary,
  ScalarType,
} from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { type Facts, fact, parseContract } from './contract-text.ts';

const contractDirectory = new URL('../../../fixtures/contract/', import.meta.url);
const descriptorsFile = new URL('../../../../src/api/proto/gen/descriptors.binpb', import.meta.url);

// What Troupe speaks beside containerd's own API; not part of the contract.
const beside = ['google/', 'grpc/health/', 'ttrpc/'];

function described(): Facts {
  const set = fromBinary(FileDescriptorSetSchema, readFileSync(descriptorsFile));
  const facts: Facts = new Set();
  const registry = createFileRegistry(set);
  for (const file of registry.files) {
    const path = `${file.name}.proto`;
    if (beside.some((prefix) => path.startsWith(prefix))) continue;
    facts.add(fact.file(path, file.proto.package));
    assert.equal(file.proto.syntax, 'proto3', path);
  }
  for (const type of registry) {
    if (beside.some((prefix) => type.kind !== 'extension' && type.file.name.startsWith(prefix))) continue;
    if (type.kind === 'message') {
      facts.add(fact.message(type.typeName, `${type.file.name}.proto`));
      for (const field of type.fields) facts.add(fieldFact(type.typeName, field));
      assert.equal(type.oneofs.length, 0, `${type.typeName} has a oneof, of which the contract knows none`);
    } else if (type.kind === 'enum') {
      for (const value of type.values) facts.add(fact.enumValue(type.typeName, value.name, value.number));
    } else if (type.kind === 'service') {
      facts.add(fact.service(type.typeName));
      for (const method of type.methods) facts.add(rpcFact(method));
    }
  }
  return facts;
}

function rpcFact(method: DescMethod): string {
  const { clientStreaming, serverStreaming } = method.proto;
  return fact.rpc(
    method.parent.typeName,
    method.name,
    method.input.typeName,
    clientStreaming,
    method.output.typeName,
    serverStreaming,
  );
}

function fieldFact(message: string, field: DescField): string {
  const optional = field.proto.proto3Optional ? 'optional ' : '';
  const label = field.fieldKind === 'list' ? 'repeated ' : optional;
  const deprecated = field.proto.options?.deprecated ?? false;
  return fact.field(message, field.number, field.name, label, typeName(field), deprecated);
}

function typeName(field: DescField): string {
  const scalar = (type: ScalarType): string => ScalarType[type]!.toLowerCase();
  switch (field.fieldKind) {
    case 'scalar':
      return scalar(field.scalar);
    case 'enum':
      return field.enum.typeName;
    case 'message':
      return field.message.typeName;
    case 'list':
      if (field.listKind === 'scalar') return scalar(field.scalar);
      return field.listKind === 'enum' ? field.enum.typeName : field.message.typeName;
    case 'map': {
      const value = {
        scalar: () => scalar(field.scalar!),
        enum: () => field.enum!.typeName,
        message: () => field.message!.typeName,
      }[field.mapKind]();
      return `map<${scalar(field.mapKey)},${value}>`;
    }
  }
}

const contractTexts = ['containerd-api.txt', 'cgroup1-metrics.txt', 'cgroup2-metrics.txt'].map((name) =>
  readFileSync(new URL(name, contractDirectory), 'utf8'),
);

function contract(): Facts {
  return new Set(contractTexts.flatMap((text) => [...parseContract(text)]));
}

test('every file, message, field, enum value and rpc of the contract is generated as it stands', () => {
  const generated = described();
  const missing = [...contract()].filter((line) => !generated.has(line));
  assert.deepEqual(missing, []);
});

test('nothing is generated that the contract does not have', () => {
  const wanted = contract();
  const extra = [...described()].filter((line) => !wanted.has(line));
  assert.deepEqual(extra, []);
});

test('the contract text is read whole', () => {
  const facts = [...contract()];
  const lines = contractTexts.join('\n').split('\n');
  for (const [kind, pattern] of [
    ['file ', /^file /],
    ['service ', /^service /],
    ['rpc ', /^ {2}rpc /],
    ['message ', /^message /],
    ['field ', /^ {2}\d/],
  ] as const) {
    const inText = lines.filter((line) => pattern.test(line)).length;
    assert.equal(facts.filter((line) => line.startsWith(kind)).length, inText, kind);
    assert.ok(inText > 0, kind);
  }
  assert.ok(facts.includes('field containerd.types.Descriptor 3 size int64'));
  assert.ok(facts.includes('enum containerd.runtime.bootstrap.v1.LogLevel LOG_LEVEL_TRACE=-8'));
  assert.throws(() => parseContract('message A\n  one string\n'), /line 2 has no known form/);
});
