// Snapshotters behind a socket: the contract, snapshots that they supply themselves, and plugins that go or fall silent.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { errorOfStatus } from '../../../../src/api/grpc/status.ts';
import { Info, Kind } from '../../../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import { PluginChannel } from '../../../../src/api/proxy/plugin-channel.ts';
import { ProxySnapshotter } from '../../../../src/api/proxy/snapshotter.ts';
import { inlineTreeJobs } from '../../../../src/io/snapshotters/jobs.ts';
import { openSnapshotNames } from '../../../../src/io/snapshotters/names.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { needsRoot } from '../../../fixtures/kernel.ts';
import { RemoteSnapshotter } from '../../../fixtures/remote-snapshotter.ts';
import { fastDirectory } from '../../../fixtures/scratch.ts';
import { snapshotterSuite } from '../../../suites/snapshotter.ts';
import { coded, SnapshotBench, testNamespace } from '../../../suites/snapshotter-bench.ts';

const skip = needsRoot();
const directory = fastDirectory();
const refLabel = 'containerd.io/snapshot.ref';

async function proxyOf(
  root: string,
  remote: RemoteSnapshotter,
  deadlines: { callDeadlineMs?: number; connectDeadlineMs?: number } = {},
): Promise<ProxySnapshotter> {
  const channel = new PluginChannel({ name: 'remote', address: remote.address, errorOfStatus, ...deadlines });
  const names = await openSnapshotNames(root, inlineTreeJobs(createSys));
  return new ProxySnapshotter({ name: 'remote', channel, names, capabilities: ['rebase'] });
}

/** What a test started, ended with the bench: the bench knows only its backend. */
const remotes: RemoteSnapshotter[] = [];
const proxies: ProxySnapshotter[] = [];
test.afterEach(async () => {
  for (const proxy of proxies.splice(0)) await proxy[Symbol.asyncDispose]();
  for (const remote of remotes.splice(0)) await remote[Symbol.asyncDispose]();
});

snapshotterSuite(
  'proxy',
  async (root) => {
    // A second start on the same root finds the plugin where it was.
    if (remotes.length === 0) remotes.push(await RemoteSnapshotter.start('remote', directory));
    const proxy = await proxyOf(root, remotes[0] as RemoteSnapshotter);
    proxies.push(proxy);
    return proxy;
  },
  { rebases: true, measuresOwnData: true, layers: 32, elsewhere: true, directory },
);

async function start(deadlines: { callDeadlineMs?: number; connectDeadlineMs?: number } = {}) {
  const remote = await RemoteSnapshotter.start('remote', directory);
  remotes.push(remote);
  const bench = await SnapshotBench.start(async (root) => {
    const proxy = await proxyOf(root, remote, deadlines);
    proxies.push(proxy);
    return proxy;
  }, directory);
  return { remote, bench, [Symbol.asyncDispose]: () => bench[Symbol.asyncDispose]() };
}

/** Again and again while the plugin is away or slow: a busy machine must not fail a test of short deadlines. */
async function eventually<T>(use: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    try {
      return await use();
    } catch (error) {
      if (!coded('unavailable')(error) || Date.now() > deadline) throw error;
    }
  }
}

const infoOf = (bench: SnapshotBench, key: string) => {
  const record = bench.metadata.reader.snapshot(testNamespace, 'remote', key);
  return record === undefined ? undefined : Info.decode(record.info);
};

test('a layer that the plugin supplies is there under its chain ID, and nothing has to be unpacked', {
  skip,
}, async () => {
  await using box = await start();
  const { remote, bench } = box;
  remote.catalogue.set('sha256:one', (root) => writeFileSync(join(root, 'one'), 'lazily'));
  remote.catalogue.set('sha256:two', (root) => writeFileSync(join(root, 'two'), 'too'));
  const target = (ref: string) => ({
    [refLabel]: ref,
    'containerd.io/snapshot/cri.layer-digest': 'sha256:x',
  });
  await assert.rejects(
    bench.prepare('extract-1 sha256:one', '', target('sha256:one')),
    coded('already-exists', /target snapshot "sha256:one"/),
  );
  const one = infoOf(bench, 'sha256:one');
  assert.equal(one?.kind, Kind.COMMITTED);
  assert.equal(one?.parent, '');
  assert.equal(one?.labels.get(refLabel), 'sha256:one');
  assert.equal(infoOf(bench, 'extract-1 sha256:one'), undefined);
  assert.ok((await bench.usage('sha256:one')).inodes >= 2);
  // The second layer lies on the first, in the plugin's own terms.
  await assert.rejects(
    bench.prepare('extract-2 sha256:two', 'sha256:one', target('sha256:two')),
    coded('already-exists'),
  );
  // Asked again, the store knows, and the plugin is left alone.
  const calls = remote.calls.length;
  await assert.rejects(
    bench.prepare('extract-3 sha256:two', 'sha256:one', target('sha256:two')),
    coded('already-exists'),
  );
  assert.equal(remote.calls.length, calls);
  await bench.mounted(await bench.prepare('work', 'sha256:two'), (root) => {
    assert.deepEqual(readdirSync(root).sort(), ['one', 'two']);
    assert.equal(readFileSync(join(root, 'one'), 'utf8'), 'lazily');
  });
  // What is not in the catalogue is prepared for unpacking.
  await bench.mounted(await bench.prepare('extract-4 x', '', target('sha256:three')), () => undefined);
  await bench.commit('sha256:three', 'extract-4 x', target('sha256:three'));
  assert.equal(infoOf(bench, 'sha256:three')?.kind, Kind.COMMITTED);
});

test('a supplied layer on another parent, or one that is not to be found, is refused', { skip }, async () => {
  await using box = await start();
  const { remote, bench } = box;
  remote.catalogue.set('sha256:one', () => undefined);
  await bench.layer('base', '', () => undefined);
  await assert.rejects(bench.prepare('a', 'base', { [refLabel]: 'sha256:one' }), coded('already-exists'));
  // The same layer on nothing: the plugin's own snapshot has a parent.
  remote.catalogue.set('sha256:one', () => {
    throw Object.assign(new Error('there'), { code: 'already-exists' });
  });
  const other = new Map([[refLabel, 'sha256:one']]);
  const backend = bench.backend as ProxySnapshotter;
  const snapshot = {
    id: 900,
    kind: 'active',
    parents: [],
    labels: other,
    namespace: testNamespace,
    key: 'z',
  } as const;
  await assert.rejects(backend.create(snapshot), coded('invalid-argument', /another parent/));
  remote.catalogue.set('sha256:lost', () => {
    throw Object.assign(new Error('there'), { code: 'already-exists' });
  });
  const lost = { ...snapshot, labels: new Map([[refLabel, 'sha256:lost']]) };
  await assert.rejects(backend.create(lost), coded('not-found', /sha256:lost/));
  assert.equal(existsSync(join(backend.root, 'snapshots/900')), false);
});

test('a snapshot that several of ours mean stays until the last of them goes', { skip }, async () => {
  await using box = await start();
  const { remote, bench } = box;
  remote.catalogue.set('sha256:one', () => undefined);
  await assert.rejects(bench.prepare('a', '', { [refLabel]: 'sha256:one' }), coded('already-exists'));
  const backend = bench.backend as ProxySnapshotter;
  const [supplied] = remote.names();
  assert.match(supplied ?? '', /^supplied/);
  // Another namespace asks for the same: the plugin has it already.
  remote.catalogue.set('sha256:one', () => {
    throw Object.assign(new Error('there'), { code: 'already-exists' });
  });
  const labels = new Map([[refLabel, 'sha256:one']]);
  const second = {
    id: 900,
    kind: 'active',
    parents: [],
    labels,
    namespace: testNamespace,
    key: 'z',
  } as const;
  assert.ok('provided' in (await backend.create(second)));
  await backend.remove(900);
  assert.ok(remote.names().includes(supplied ?? ''));
  await bench.remove('sha256:one');
  await bench.cleanup();
  assert.equal(remote.names().includes(supplied ?? ''), false);
});

test('a plugin that is gone is unavailable within its deadline, and found again when it is back', {
  skip,
}, async () => {
  await using box = await start({ connectDeadlineMs: 700 });
  const { remote, bench } = box;
  await eventually(() => bench.prepare('before'));
  await remote.stop();
  const gone = coded('unavailable', /proxy plugin "remote"/);
  await assert.rejects(bench.mounts('before'), gone);
  await assert.rejects(bench.prepare('while'), gone);
  await assert.rejects(bench.commit('name', 'before'), gone);
  assert.equal(infoOf(bench, 'before')?.kind, Kind.ACTIVE);
  // The store goes on without it, and what could not be removed there waits.
  await bench.remove('before');
  assert.equal((await bench.cleanup()).failed > 0, true);
  await remote.listen();
  await eventually(() => bench.prepare('after'));
  assert.equal((await bench.cleanup()).failed, 0);
  assert.equal(remote.names().length, 1);
  bench.warnings.length = 0;
});

test('a silent plugin holds up nobody but who asked it, and not for long', { skip }, async () => {
  await using box = await start({ callDeadlineMs: 2_000 });
  const { remote, bench } = box;
  await eventually(() => bench.prepare('before'));
  remote.silentMs = 60_000;
  const asked = assert.rejects(
    bench.prepare('silent'),
    coded('unavailable', /did not answer within 2000 ms/),
  );
  assert.equal((await eventually(() => bench.mounts('before'))).length, 1);
  await asked;
  remote.silentMs = 0;
  await eventually(() => bench.prepare('silent'));
});

test('a commit that came through at the plugin but not here is taken up again', { skip }, async () => {
  await using box = await start();
  const { remote, bench } = box;
  await bench.prepare('work');
  const record = bench.metadata.reader.snapshot(testNamespace, 'remote', 'work');
  const backend = bench.backend as ProxySnapshotter;
  // What a daemon did that was killed before it recorded the commit.
  const labels = new Map<string, string>();
  const id = record?.id ?? 0;
  const commit = { id, kind: 'active', parents: [], labels, namespace: testNamespace, key: 'work' } as const;
  await backend.commit({ ...commit, name: 'base', newLabels: labels, newParent: undefined });
  await bench.restart();
  await bench.commit('base', 'work');
  await bench.prepare('child', 'base');
  assert.equal(remote.names().length, 2);
});
