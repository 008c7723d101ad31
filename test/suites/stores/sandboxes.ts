// Contract of the Store service of sandboxes.
import assert from 'node:assert/strict';
import { StoreDefinition } from '../../../src/api/proto/gen/services/sandbox/v1/sandbox.ts';
import type { Sandbox } from '../../../src/api/proto/gen/types/sandbox.ts';
import { anyOf, type Case, eventsOf, isRecent, labels, nsOf, plain, refused, type Suite } from './subject.ts';

type Given = Parameters<typeof Sandbox.fromPartial>[0];
const since = { since: '1.7' } as const;

const create = async ({ client, at }: Case, sandbox: Given) =>
  (await client.call(StoreDefinition, 'create', { sandbox }, at)).sandbox!;
const update = async ({ client, at }: Case, sandbox: Given, ...fields: string[]) =>
  (await client.call(StoreDefinition, 'update', { sandbox, fields }, at)).sandbox!;
const get = async ({ client, at }: Case, sandboxId: string) =>
  (await client.call(StoreDefinition, 'get', { sandboxId }, at)).sandbox!;
const remove = ({ client, at }: Case, sandboxId: string) =>
  client.call(StoreDefinition, 'delete', { sandboxId }, at);
const list = async ({ client, at }: Case, ...filters: string[]) =>
  (await client.call(StoreDefinition, 'list', { filters }, at)).list.map(({ sandboxId }) => sandboxId);
const textOf = (value: { value: Uint8Array } | undefined) => Buffer.from(value?.value ?? []).toString();
const extensionsOf = ({ extensions }: Sandbox) =>
  Object.fromEntries([...extensions].sort().map(([key, value]) => [key, textOf(value)]));

const full = (sandboxId: string) => ({
  sandboxId,
  runtime: { name: 'r.v1', options: anyOf('options') },
  spec: anyOf('spec'),
  labels: labels({ a: '1', 'x.y/z': '2', empty: '' }),
  extensions: new Map([['e1', anyOf('one')]]),
  sandboxer: 'podsandbox',
});

export async function sandboxesSuite(suite: Suite): Promise<void> {
  await suite.test(
    'a sandbox is stored as given, with times of the daemon',
    async (given) => {
      const made = await create(given, { ...full('s'), createdAt: { seconds: 1n, nanos: 0 } });
      isRecent(made.createdAt);
      assert.equal(nsOf(made.createdAt), nsOf(made.updatedAt));
      const got = await get(given, 's');
      assert.deepEqual(got, made);
      assert.deepEqual(
        [got.runtime?.name, textOf(got.spec), got.sandboxer, extensionsOf(got)],
        ['r.v1', 'spec', 'podsandbox', { e1: 'one' }],
      );
      assert.deepEqual(plain(got.labels), { a: '1', 'x.y/z': '2' });
      await refused(create(given, { sandboxId: 's' }), 'ALREADY_EXISTS', /: already exists$/);
    },
    since,
  );

  await suite.test(
    'nothing but the id is checked',
    async (given) => {
      for (const bad of ['', 'a/b', 'a b', 'x'.repeat(77)]) {
        await refused(create(given, { sandboxId: bad }), 'INVALID_ARGUMENT', /: invalid argument$/);
      }
      await create(given, { sandboxId: 'bare', labels: labels({ k: 'x'.repeat(5000) }) });
      assert.deepEqual(await list(given), ['bare']);
    },
    since,
  );

  await suite.test(
    'who is not there is not found',
    async (given) => {
      assert.deepEqual(await list(given), []);
      await refused(get(given, 's'), 'NOT_FOUND', /: not found$/);
      await refused(remove(given, 's'), 'NOT_FOUND', /: not found$/);
      await refused(update(given, full('s')), 'NOT_FOUND', /: not found$/);
      await create(given, full('s'));
      await remove(given, 's');
      await refused(get(given, 's'), 'NOT_FOUND');
    },
    since,
  );

  await suite.test(
    'an update without fields replaces four of them, and the runtime must be the same',
    async (given) => {
      const before = await create(given, full('s'));
      const next = {
        sandboxId: 's',
        runtime: { name: 'r.v1' },
        labels: labels({ b: '2' }),
        extensions: new Map([['e2', anyOf('two')]]),
        sandboxer: 'other',
      };
      const after = await update(given, next);
      assert.ok(nsOf(after.updatedAt) > nsOf(before.updatedAt));
      const got = await get(given, 's');
      assert.deepEqual([plain(got.labels), got.spec, got.sandboxer], [{ b: '2' }, undefined, 'podsandbox']);
      assert.deepEqual(extensionsOf(got), { e1: 'one', e2: 'two' });
      assert.equal(nsOf(got.createdAt), nsOf(before.createdAt));
      await refused(
        update(given, { ...next, runtime: { name: 'r.v2' } }),
        'INVALID_ARGUMENT',
        /: invalid argument$/,
      );
      await refused(update(given, { ...next, runtime: undefined }), 'INVALID_ARGUMENT');
    },
    since,
  );

  await suite.test(
    'fields name what changes, the runtime included',
    async (given) => {
      await create(given, full('s'));
      const change = {
        ...full('s'),
        runtime: { name: 'r.v2' },
        spec: anyOf('other'),
        labels: labels({ a: '5', n: '6' }),
        extensions: new Map([['e2', anyOf('two')]]),
      };
      await update(given, change, 'labels.a', 'labels.x.y/z', 'runtime');
      let got = await get(given, 's');
      assert.deepEqual(
        [plain(got.labels), got.runtime?.name, textOf(got.spec)],
        [{ a: '5' }, 'r.v2', 'spec'],
      );
      await update(given, change, 'labels', 'spec', 'extensions.e2');
      got = await get(given, 's');
      assert.deepEqual(
        [plain(got.labels), textOf(got.spec), extensionsOf(got)],
        [{ a: '5', n: '6' }, 'other', { e1: 'one', e2: 'two' }],
      );
      for (const field of ['sandboxer', 'sandbox_id', 'created_at', 'Labels', '']) {
        await refused(update(given, change, 'labels', field), 'INVALID_ARGUMENT', /: invalid argument$/);
      }
      assert.deepEqual(await get(given, 's'), got);
    },
    since,
  );

  await suite.test(
    'filters know id and labels',
    async (given) => {
      await create(given, full('b'));
      await create(given, { sandboxId: 'a', labels: labels({ l: 'v' }) });
      assert.deepEqual(await list(given), ['a', 'b']);
      assert.deepEqual(await list(given, 'id==a'), ['a']);
      assert.deepEqual(await list(given, 'labels."x.y/z"==2'), ['b']);
      assert.deepEqual(await list(given, 'runtime.name==r.v1'), []);
      await refused(
        list(given, 'id=='),
        'INVALID_ARGUMENT',
        /filters: parse error:.*: invalid argument: invalid argument$/,
      );
    },
    since,
  );

  await suite.test(
    'sandboxes of the store are no events',
    async (given) => {
      const events = await eventsOf(given, async () => {
        await create(given, full('s'));
        await update(given, full('s'), 'labels');
        await remove(given, 's');
      });
      assert.deepEqual(events, []);
    },
    since,
  );
}
