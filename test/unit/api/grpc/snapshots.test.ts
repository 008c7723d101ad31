// The Snapshots service over a socket, as a client sees it.
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { status } from '@grpc/grpc-js';
import { snapshotsService } from '../../../../src/api/grpc/snapshots.ts';
import {
  type Info,
  Kind,
  type ListSnapshotsResponse,
  SnapshotsDefinition,
} from '../../../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import { inlineTreeJobs } from '../../../../src/io/snapshotters/jobs.ts';
import { createOverlayfs } from '../../../../src/io/snapshotters/overlayfs.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { SnapshotBench } from '../../../suites/snapshotter-bench.ts';
import { headers, serve, serverStream, unary } from './harness.ts';

const upperdir = 'containerd.io/snapshot/overlay.upperdir';

async function start(t: TestContext, upperdirLabel = false) {
  const features = { indexParameter: true, userxattr: false, idMappedMounts: true, userNamespace: false };
  const jobs = inlineTreeJobs(createSys);
  const bench = await SnapshotBench.start((root) => createOverlayfs({ root, jobs, features, upperdirLabel }));
  t.after(() => bench[Symbol.asyncDispose]());
  const { metadata, reader } = bench.metadata;
  const overlayfs = { actor: bench.ref, ownLabels: (id: number) => bench.backend.ownLabels(id) };
  const service = snapshotsService({ metadata, reader, snapshotters: new Map([['overlayfs', overlayfs]]) });
  const { client } = await serve(t, [service]);
  const call = <K extends keyof (typeof SnapshotsDefinition)['methods'] & string>(
    name: K,
    request: Record<string, unknown>,
  ) =>
    unary(client, SnapshotsDefinition, name, { snapshotter: 'overlayfs', ...request } as never) as Promise<
      ReturnType<(typeof SnapshotsDefinition)['methods'][K]['responseType']['decode']>
    >;
  const list = async (filters: string[] = [], metadataHeaders?: ReturnType<typeof headers>) => {
    const messages: Info[][] = [];
    const request = { snapshotter: 'overlayfs', filters };
    const stream = serverStream(client, SnapshotsDefinition, 'list', request, metadataHeaders);
    for await (const message of stream) messages.push((message as ListSnapshotsResponse).info);
    return messages;
  };
  const prepare = (key: string, parent = '', labels: Record<string, string> = {}) =>
    call('prepare', { key, parent, labels: new Map(Object.entries(labels)) });
  const commit = (name: string, key: string, labels: Record<string, string> = {}) =>
    call('commit', { name, key, parent: '', labels: new Map(Object.entries(labels)) });
  return { bench, client, call, list, prepare, commit };
}

function answered(code: status, text: RegExp): (error: unknown) => boolean {
  return (error) => {
    const { code: given, details } = error as { code?: number; details?: string };
    assert.equal(given, code);
    assert.match(details ?? '', text);
    return true;
  };
}

test('snapshots are prepared, committed, looked at and removed', async (t) => {
  const { call, prepare, commit, bench } = await start(t);
  const { mounts } = await prepare('work', '', { mine: 'x' });
  assert.equal(mounts.length, 1);
  const [mount] = mounts;
  assert.deepEqual([mount?.type, mount?.options], ['bind', ['rw', 'rbind']]);
  assert.deepEqual((await call('mounts', { key: 'work' })).mounts, mounts);
  mkdirSync(`${mount?.source}/dir`);
  writeFileSync(`${mount?.source}/dir/file`, Buffer.alloc(10_000, 1));
  const usage = await call('usage', { key: 'work' });
  assert.equal(usage.inodes, 3n);
  assert.ok(usage.size >= 12_288n);
  await commit('base', 'work', { other: 'y' });
  assert.deepEqual(await call('usage', { key: 'base' }), usage);
  const { info } = await call('stat', { key: 'base' });
  assert.deepEqual([info?.name, info?.parent, info?.kind], ['base', '', Kind.COMMITTED]);
  assert.deepEqual([...(info?.labels ?? [])], [['other', 'y']]);
  await call('view', { key: 'look', parent: 'base', labels: new Map() });
  assert.equal((await call('stat', { key: 'look' })).info?.kind, Kind.VIEW);
  await assert.rejects(
    call('remove', { key: 'base' }),
    answered(status.FAILED_PRECONDITION, /remove.*: failed precondition$/),
  );
  await call('remove', { key: 'look' });
  await call('remove', { key: 'base' });
  await assert.rejects(call('stat', { key: 'base' }), answered(status.NOT_FOUND, /"base": not found$/));
  assert.deepEqual(bench.warnings, []);
});

test('an unknown snapshotter is an invalid argument for every method', async (t) => {
  const { client, call } = await start(t);
  for (const name of Object.keys(SnapshotsDefinition.methods)) {
    if (name === 'list') continue;
    const request = { snapshotter: 'none', key: 'k', labels: new Map(), name: 'n' };
    await assert.rejects(call(name as 'stat', request), answered(status.INVALID_ARGUMENT, /"none"/), name);
  }
  const stream = serverStream(client, SnapshotsDefinition, 'list', { snapshotter: '', filters: [] });
  await assert.rejects(
    async () => {
      for await (const _ of stream);
    },
    answered(status.INVALID_ARGUMENT, /not loaded/),
  );
  await assert.rejects(call('cleanup', {}), answered(status.UNIMPLEMENTED, /./));
});

test('lists come in order of key, a hundred to a message, none when empty', async (t) => {
  const { list, prepare } = await start(t);
  assert.deepEqual(await list(), []);
  await Promise.all(Array.from({ length: 201 }, (_, i) => prepare(`key ${String(i).padStart(3, '0')}`)));
  const messages = await list();
  assert.deepEqual(
    messages.map((infos) => infos.length),
    [100, 100, 1],
  );
  const names = messages.flat().map(({ name }) => name);
  assert.deepEqual(names, [...names].sort());
  assert.deepEqual(await list([], headers({ 'containerd-namespace': 'other' })), []);
});

test('lists are filtered by name, parent, kind and labels', async (t) => {
  const { list, prepare, commit, call } = await start(t);
  await prepare('w', '', { a: '1' });
  await commit('base', 'w', { a: '2', 'containerd.io/x': 'y' });
  await prepare('child', 'base');
  await call('view', { key: 'look', parent: 'base', labels: new Map() });
  const named = async (...filters: string[]) => (await list(filters)).flat().map(({ name }) => name);
  assert.deepEqual(await named('name==base'), ['base']);
  assert.deepEqual(await named('name==missing', 'name==look', 'name==base'), ['base', 'look']);
  assert.deepEqual(await named('name==base,kind==active'), []);
  assert.deepEqual(await named('parent==base'), ['child', 'look']);
  assert.deepEqual(await named('parent==""'), ['base']);
  assert.deepEqual(await named('parent'), ['base', 'child', 'look']);
  assert.deepEqual(await named('kind==committed'), ['base']);
  assert.deepEqual(await named('kind==active', 'kind==view'), ['child', 'look']);
  assert.deepEqual(await named('labels.a==2'), ['base']);
  assert.deepEqual(await named('labels."containerd.io/x"==y'), ['base']);
  assert.deepEqual(await named('name~="^[bl]"'), ['base', 'look']);
});

test('what goes wrong in a list is unclassified, as it is with containerd', async (t) => {
  const { list } = await start(t);
  await assert.rejects(list(['name==']), answered(status.UNKNOWN, /filters/));
  await assert.rejects(
    list([], headers({})),
    answered(status.UNKNOWN, /namespace is required: failed precondition$/),
  );
});

test('updates follow the mask, and answer with what is stored', async (t) => {
  const { call, prepare } = await start(t);
  await prepare('work', '', { a: '1', b: '2' });
  const update = async (labels: Record<string, string>, updateMask: string[] | undefined) => {
    const info = { name: 'work', parent: '', kind: 0, labels: new Map(Object.entries(labels)) };
    const { info: stored } = await call('update', { info, updateMask });
    assert.deepEqual(stored, (await call('stat', { key: 'work' })).info);
    return Object.fromEntries(stored?.labels ?? []);
  };
  assert.deepEqual(await update({ b: '3' }, ['labels.b']), { a: '1', b: '3' });
  assert.deepEqual(await update({}, ['labels.a']), { b: '3' });
  assert.deepEqual(await update({ c: '4' }, undefined), { c: '4' });
  await assert.rejects(update({}, ['name']), answered(status.INVALID_ARGUMENT, /"name"/));
  await assert.rejects(call('update', { info: undefined }), answered(status.INVALID_ARGUMENT, /./));
});

test('the upper directory shows as a label where configured, under labels of the record', async (t) => {
  const { call, prepare, list } = await start(t, true);
  const { mounts } = await prepare('work', '', { mine: 'x' });
  const source = mounts[0]?.source ?? '';
  assert.deepEqual(Object.fromEntries((await call('stat', { key: 'work' })).info?.labels ?? []), {
    [upperdir]: source,
    mine: 'x',
  });
  assert.equal((await list([`labels."${upperdir}"`]))[0]?.[0]?.labels.get(upperdir), source);
  await prepare('own', '', { [upperdir]: 'set by the client' });
  assert.equal((await call('stat', { key: 'own' })).info?.labels.get(upperdir), 'set by the client');
});
