// What the shim understands of its command line and of the two forms of bootstrap.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Any } from '../../../../src/api/proto/gen/google/protobuf/any.ts';
import {
  BootstrapParams,
  BootstrapResult,
  LogLevel,
} from '../../../../src/api/proto/gen/runtime/bootstrap/v1/bootstrap.ts';
import { checkArguments, parseArguments } from '../../../../src/boot/shim/arguments.ts';
import { formatAnswer, parseBootstrapInput } from '../../../../src/boot/shim/bootstrap.ts';

const args = parseArguments(['-namespace', 'n', '-id', 'c1', '-address', '/d.sock', 'start']);

test('flags come with one dash or two, their values behind = or in the next word', () => {
  const parsed = parseArguments([
    '--namespace=n',
    '-id',
    'c1',
    '-bundle=/b',
    '-debug',
    '-publish-binary',
    '/x',
    'delete',
    '-v',
  ]);
  assert.deepEqual(
    [parsed.namespace, parsed.id, parsed.bundle, parsed.debug, parsed.action, parsed.version],
    ['n', 'c1', '/b', true, 'delete', false],
  );
  assert.equal(parseArguments(['-v']).version, true);
  assert.equal(parseArguments(['-info']).info, true);
  assert.throws(() => parseArguments(['-nosuch']), /-nosuch/);
  assert.throws(() => parseArguments(['-id']), /-id/);
});

test('namespace, action and id must be there', () => {
  checkArguments(args);
  assert.throws(() => checkArguments({ ...args, namespace: '' }), /namespace cannot be empty/);
  assert.throws(() => checkArguments({ ...args, namespace: '../x' }), { code: 'invalid-argument' });
  assert.throws(() => checkArguments({ ...args, action: 'run' }), /run/);
  assert.throws(() => checkArguments({ ...args, id: '' }), /id cannot be empty/);
});

test('parameters of containerd 2.3 are known by id and namespace', () => {
  const options = Any.create({ typeUrl: 'containerd.runc.v1.Options', value: Buffer.from([1]) });
  const input = BootstrapParams.encode(
    BootstrapParams.create({
      instanceId: 'c1',
      namespace: 'n',
      logLevel: LogLevel.LOG_LEVEL_DEBUG,
      containerdTtrpcAddress: '/t.sock',
      socketDir: '/s',
      extensions: [{ value: options }],
    }),
  ).finish();
  const parsed = parseBootstrapInput(input, args, { TTRPC_ADDRESS: '/other' });
  assert.deepEqual(
    [parsed.modern, parsed.ttrpcAddress, parsed.socketDir, parsed.debug, parsed.options?.typeUrl],
    [true, '/t.sock', '/s', true, options.typeUrl],
  );
});

test('options of an older containerd are never taken for parameters', () => {
  const text = fc.string({ maxLength: 30 });
  fc.assert(
    fc.property(text, fc.uint8Array({ maxLength: 40 }), (typeUrl, value) => {
      const input = Any.encode(Any.create({ typeUrl, value })).finish();
      const parsed = parseBootstrapInput(input, args, { TTRPC_ADDRESS: '/t' });
      assert.deepEqual([parsed.modern, parsed.ttrpcAddress], [false, '/t']);
      if (input.length > 0) assert.equal(parsed.options?.typeUrl, typeUrl);
    }),
  );
  assert.equal(parseBootstrapInput(new Uint8Array(0), args, {}).options, undefined);
});

test('the answer is a message for new daemons and a bare address for old ones', () => {
  assert.equal(Buffer.from(formatAnswer('unix:///a', false)).toString(), 'unix:///a');
  const { version, address, protocol } = BootstrapResult.decode(formatAnswer('unix:///a', true));
  assert.deepEqual([version, address, protocol], [3, 'unix:///a', 'ttrpc']);
  // The launcher passes it on as text.
  const bytes = formatAnswer('unix:///a', true);
  assert.ok(!bytes.includes(0) && bytes.at(-1) !== 0x0a);
});
