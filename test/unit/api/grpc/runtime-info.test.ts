// What runtimes say of themselves, and what is said when they do not.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runtimeInfoProvider } from '../../../../src/api/grpc/runtime-info.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import { RuntimeInfo, RuntimeRequest } from '../../../../src/api/proto/gen/types/introspection.ts';

const signal = new AbortController().signal;
const provider = runtimeInfoProvider({
  async resolve(runtime) {
    if (runtime.includes('absent')) throw fail('unknown', `runtime "${runtime}" binary not installed`);
    return `/bin/${runtime}`;
  },
  async info(binary, options) {
    if (binary.includes('old')) throw fail('unimplemented', `${binary} -info`);
    return RuntimeInfo.create({ name: `${binary} ${options?.typeUrl ?? ''}`.trim() });
  },
});
const ask = async (request: Partial<RuntimeRequest>, typeUrl = 'containerd.types.RuntimeRequest') => {
  const value = RuntimeRequest.encode({ ...RuntimeRequest.create(), ...request }).finish();
  const answer = await provider({ typeUrl, value }, signal);
  assert.equal(answer.typeUrl, 'containerd.types.RuntimeInfo');
  return RuntimeInfo.decode(answer.value).name;
};

test('a runtime is asked by name with its options; the default is runc', async () => {
  assert.equal(await ask({}), '/bin/io.containerd.runc.v2');
  const options = { typeUrl: 'o', value: new Uint8Array(0) };
  assert.equal(await ask({ runtimePath: 'x.y', options }), '/bin/x.y o');
});

test('runtimes that are not there or say nothing, and requests that are none', async () => {
  await assert.rejects(ask({ runtimePath: 'absent' }), { code: 'not-found' });
  await assert.rejects(ask({ runtimePath: 'old' }), { code: 'unimplemented' });
  await assert.rejects(ask({}, 'example.Other'), { code: 'invalid-argument' });
  const garbage = { typeUrl: 'containerd.types.RuntimeRequest', value: Buffer.from([0xff, 0xff]) };
  await assert.rejects(provider(garbage, signal), { code: 'invalid-argument' });
});
