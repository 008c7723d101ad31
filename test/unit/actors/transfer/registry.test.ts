// Pull and push over a registry that the test plays: credentials over a stream, verifiers, progress of jobs, the log of
// requests, and records that are made last.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as grpc from '@grpc/grpc-js';
import type { Distribution, PullRequest } from '../../../../src/actors/distribution/protocol.ts';
import { packAny, receiveBytes, unpackAny } from '../../../../src/api/model/binary-stream.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import { type LinkedDescriptor, mediaType } from '../../../../src/api/model/oci.ts';
import type { RegistryAccess, RegistryConnection } from '../../../../src/api/model/ports/registry.ts';
import { ImageStore } from '../../../../src/api/proto/gen/types/transfer/imagestore.ts';
import { Progress } from '../../../../src/api/proto/gen/types/transfer/progress.ts';
import {
  AuthRequest,
  AuthResponse,
  AuthType,
  HTTPDebug,
  OCIRegistry,
} from '../../../../src/api/proto/gen/types/transfer/registry.ts';
import { collect } from '../../../fixtures/memory-content.ts';
import { until } from '../../../fixtures/process.ts';
import { startTransfers } from './harness.ts';

const target: LinkedDescriptor = {
  mediaType: mediaType.ociManifest,
  digest: `sha256:${'1'.repeat(64)}` as LinkedDescriptor['digest'],
  size: 100n,
  annotations: new Map(),
  urls: [],
};
const layer: LinkedDescriptor = {
  ...target,
  mediaType: mediaType.ociLayer,
  digest: `sha256:${'2'.repeat(64)}` as LinkedDescriptor['digest'],
};

function played(pull: (request: PullRequest, access: RegistryAccess) => Promise<void> = async () => {}) {
  const accesses: RegistryAccess[] = [];
  const distribution: Partial<Distribution> = {
    connect(access) {
      accesses.push(access);
      return {
        reference: access.reference,
        resolve: async () => target,
        async [Symbol.asyncDispose]() {},
      } as unknown as RegistryConnection;
    },
    async pull(request) {
      await pull(request, accesses.at(-1)!);
      return { target };
    },
  };
  return { distribution, accesses };
}

const source = (resolver: object = {}) =>
  packAny(OCIRegistry, OCIRegistry.fromPartial({ reference: 'r.io/a:1', resolver }));
const destination = packAny(ImageStore, ImageStore.fromPartial({ name: 'r.io/a:1' }));

test('credentials are asked for one at a time, and every kind of answer is understood', async (t) => {
  const answers: unknown[] = [];
  const { distribution } = played(async (_request, { credentials }) => {
    answers.push(...(await Promise.all(['one', 'two', 'three', 'four'].map((host) => credentials!(host)))));
  });
  const harness = await startTransfers(t, distribution);
  const creds = await harness.stream('creds');
  const running = harness.transfer(source({ authStream: 'creds' }), destination);
  const replies = [
    { authType: AuthType.CREDENTIALS, username: 'me', secret: 'pass' },
    { authType: AuthType.REFRESH, username: '', secret: 'token' },
    { authType: AuthType.NONE, username: '', secret: '' },
    { authType: AuthType.HEADER, username: '', secret: 'Bearer x' },
  ];
  for (const [i, reply] of replies.entries()) {
    const asked = unpackAny(AuthRequest, await creds.receive());
    assert.deepEqual([asked?.host, asked?.reference], [['one', 'two', 'three', 'four'][i], 'r.io/a:1']);
    await creds.send(packAny(AuthResponse, { ...reply, expireAt: undefined }));
  }
  await running;
  assert.deepEqual(answers, [
    { username: 'me', secret: 'pass' },
    { username: '', secret: 'token' },
    undefined,
    undefined,
  ]);
  assert.equal(harness.image('r.io/a:1')?.target?.digest, target.digest);
});

test('a client that ends its stream of credentials ends the pull', async (t) => {
  const { distribution } = played(async (_request, { credentials }) => void (await credentials!('host.io')));
  const harness = await startTransfers(t, distribution);
  const creds = await harness.stream('creds');
  creds.end();
  await assert.rejects(harness.transfer(source({ authStream: 'creds' }), destination), (error) => {
    assert.equal((error as grpc.ServiceError).code, grpc.status.UNAUTHENTICATED);
    assert.match(String(error), /credentials for host\.io/);
    return true;
  });
  assert.equal(harness.image('r.io/a:1'), undefined);
  assert.deepEqual(harness.leftovers(), []);
});

test('jobs are told with names, parents and bytes; requests go to the stream of logs', async (t) => {
  const { distribution } = played(async ({ onProgress }, { onExchange }) => {
    const top = { ref: 'manifest-1', descriptor: target, parents: [], totalBytes: 100 };
    onProgress!({ ...top, event: 'complete', offsetBytes: 100 });
    const below = { ref: 'layer-2', descriptor: layer, parents: [target.digest], totalBytes: 7 };
    onProgress!({ ...below, event: 'downloading', offsetBytes: 3 });
    onProgress!({ ...below, event: 'extracted', offsetBytes: 7 });
    onExchange!('GET https://r.io/v2/');
  });
  const harness = await startTransfers(t, distribution);
  const [progress, logs] = [await harness.stream('progress'), await harness.stream('logs')];
  const heard: Progress[] = [];
  const listening = (async () => {
    for (let any = await progress.receive(); any !== undefined; any = await progress.receive()) {
      heard.push(unpackAny(Progress, any)!);
    }
  })();
  const [log] = await Promise.all([
    collect(receiveBytes(logs)),
    harness.transfer(source({ httpDebug: HTTPDebug.TRACE, logsStream: 'logs' }), destination, 'progress'),
    listening,
  ]);
  assert.equal(log.toString(), 'GET https://r.io/v2/\n');
  const jobs = heard.filter(({ name }) => /^(manifest|layer)-/.test(name));
  assert.deepEqual(
    jobs.map(({ event, name, parents, progress: done, total }) => [event, name, parents, done, total]),
    [
      ['complete', 'manifest-1', ['r.io/a:1'], 100n, 100n],
      ['extracted', 'layer-2', ['manifest-1'], 7n, 7n],
    ],
  );
});

test('a verifier that refuses keeps everything out; a failed pull leaves no record', async (t) => {
  const { distribution } = played(async () => {
    throw fail('unavailable', 'r.io is down');
  });
  let allowed = false;
  const harness = await startTransfers(t, distribution, {
    verify: async (name, { digest }) => {
      if (!allowed) throw fail('permission-denied', `verifier x blocked ${name} (${digest}): because`);
    },
  });
  const code = (expected: grpc.status, says: RegExp) => (error: unknown) =>
    (error as grpc.ServiceError).code === expected && says.test(String(error));
  await assert.rejects(
    harness.transfer(source(), destination),
    code(grpc.status.PERMISSION_DENIED, /blocked r\.io\/a:1 \(sha256:1+\): because/),
  );
  allowed = true;
  await assert.rejects(
    harness.transfer(source(), destination),
    code(grpc.status.UNAVAILABLE, /r\.io is down/),
  );
  await assert.rejects(
    harness.transfer(source({ defaultScheme: 'ftp' }), destination),
    code(grpc.status.INVALID_ARGUMENT, /ftp/),
  );
  assert.equal(harness.image('r.io/a:1'), undefined);
  assert.deepEqual(harness.leftovers(), []);
});

test('a client that cancels stops the pull, whose lease goes', async (t) => {
  const { distribution } = played(async ({ signal }) => {
    await new Promise((_resolve, reject) => {
      signal!.addEventListener('abort', () => reject(signal!.reason), { once: true });
    });
  });
  const harness = await startTransfers(t, distribution);
  const late = harness.transfer(source(), destination, '', { deadline: Date.now() + 1500 });
  await assert.rejects(late, (error) => (error as grpc.ServiceError).code === grpc.status.DEADLINE_EXCEEDED);
  await until('nothing is left', () => (harness.leftovers().length === 0 ? true : undefined), {
    timeoutMs: 30_000,
  });
  assert.equal(harness.image('r.io/a:1'), undefined);
});
