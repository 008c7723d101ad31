// What is said to shims and what they answer, in all forms.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Any } from '../../../../src/api/proto/gen/google/protobuf/any.ts';
import {
  BootstrapParams,
  BootstrapResult,
} from '../../../../src/api/proto/gen/runtime/bootstrap/v1/bootstrap.ts';
import {
  encodeBootstrap,
  formatBootstrapFile,
  formFor,
  isFormComplaint,
  parseBootstrap,
  parseBootstrapFile,
} from '../../../../src/io/runtime/bootstrap.ts';

const input = {
  id: 'web',
  namespace: 'default',
  debug: true,
  version: 'v1',
  ttrpcAddress: '/run/t.ttrpc',
  grpcAddress: '/run/t.sock',
  publishBinary: '/bin/trouped',
  socketDir: undefined,
  options: { typeUrl: 'containerd.runc.v1.Options', value: Buffer.from([1, 2]) },
};

test('the form follows the version that the shim was built from', () => {
  const runc = '/usr/bin/containerd-shim-runc-v2';
  const text = (version: string) => `containerd-shim-runc-v2:\n  Version:  ${version}\n  Revision: x\n`;
  assert.equal(formFor(runc, text('1.6.20~ds1')), 'options');
  assert.equal(formFor(runc, text('v2.2.9')), 'options');
  assert.equal(formFor(runc, text('v2.3.0')), 'params');
  assert.equal(formFor(runc, text('v10.0.0-rc.1')), 'params');
  assert.equal(formFor('/opt/containerd-shim-kata-v2', 'Kata Containers: Version: 3.2.0'), 'params');
  assert.equal(formFor('/usr/bin/containerd-shim-runc-v1', text('v3.0.0')), 'options');
  assert.equal(formFor(runc, ''), 'params');
  assert.ok(isFormComplaint('io.containerd.runc.v2: type with url abcd: not found'));
  assert.ok(!isFormComplaint('open config.json: no such file or directory'));
});

test('both forms carry the options', () => {
  const params = BootstrapParams.decode(encodeBootstrap('params', input));
  assert.equal(params.instanceId, 'web');
  assert.equal(params.logLevel, -4);
  assert.equal(params.socketDir, undefined);
  assert.equal(params.extensions[0]?.value?.typeUrl, 'containerd.runc.v1.Options');
  assert.equal(Any.decode(encodeBootstrap('options', input)).typeUrl, 'containerd.runc.v1.Options');
  assert.equal(encodeBootstrap('options', { ...input, options: undefined }).length, 0);
  assert.deepEqual(
    BootstrapParams.decode(encodeBootstrap('params', { ...input, options: undefined })).extensions,
    [],
  );
});

test('answers in protobuf, in JSON and as a bare address', () => {
  const result = BootstrapResult.create({ version: 3, address: 'unix:///run/s/x', protocol: 'ttrpc' });
  const expected = { version: 3, address: 'unix:///run/s/x', protocol: 'ttrpc' };
  assert.deepEqual(parseBootstrap(BootstrapResult.encode(result).finish()), expected);
  const json = ' {"version":3,"address":"unix:///run/s/x","protocol":"ttrpc"}\n';
  assert.deepEqual(parseBootstrap(Buffer.from(json)), expected);
  assert.deepEqual(parseBootstrap(Buffer.from('unix:///run/s/x\n')), { ...expected, version: 2 });
  assert.deepEqual(parseBootstrap(Buffer.from('{"version":3,"address":"/run/x","protocol":"grpc"}')), {
    version: 3,
    address: '/run/x',
    protocol: 'grpc',
  });
});

test('answers that the daemon cannot serve are refused', () => {
  const refuse = (text: string, code: string) =>
    assert.throws(() => parseBootstrap(Buffer.from(text)), { code });
  refuse('{"version":4,"address":"x","protocol":"ttrpc"}', 'unimplemented');
  refuse('{"version":2,"address":"x","protocol":"grpc"}', 'unimplemented');
  refuse('{"version":3,"address":"x","protocol":"carrier-pigeon"}', 'unimplemented');
  refuse('', 'unknown');
  refuse('warning: something\nunix:///run/x', 'unknown');
});

test('whatever a shim prints becomes an address or an error with a code', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120 }), (output) => {
      try {
        const { version, address } = parseBootstrap(output);
        assert.ok((version === 2 || version === 3) && address !== '');
      } catch (error) {
        assert.ok(['unknown', 'unimplemented'].includes((error as { code: string }).code));
      }
    }),
  );
});

test('bootstrap.json survives the way to disk', () => {
  const address = { version: 3, address: 'unix:///run/"s', protocol: 'ttrpc' } as const;
  assert.deepEqual(parseBootstrapFile(formatBootstrapFile(address)), address);
  assert.deepEqual(parseBootstrapFile('unix:///run/old'), {
    version: 2,
    address: 'unix:///run/old',
    protocol: 'ttrpc',
  });
});
