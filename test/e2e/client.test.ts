// The client library and the command line against a real daemon: pull, run, exec, terminals, signals, removal.
import assert from 'node:assert/strict';
import { PassThrough, Writable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import {
  type Client,
  codeOf,
  createClient,
  Status,
  type StreamIoOptions,
} from '../../src/api/client/index.ts';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import { featureImage } from '../fixtures/feature-image.ts';
import { type BuiltImage, buildIndex, buildManifest, busyboxLayer } from '../fixtures/image.ts';
import { type Registry, startRegistry } from '../fixtures/registry.ts';
import { subject } from './side.ts';

const sigterm = 15;
const sigkill = 9;

/** A stream that keeps what is written to it. */
function sink(): Writable & { text: () => string } {
  const chunks: Uint8Array[] = [];
  const stream = new Writable({
    write(chunk: Uint8Array, _encoding, done) {
      chunks.push(chunk);
      done();
    },
  });
  return Object.assign(stream, { text: () => Buffer.concat(chunks).toString() });
}

describe('client', { timeout: 300_000 }, () => {
  let stack: AsyncDisposableStack;
  let daemon: Daemon;
  let registry: Registry;
  let client: Client;
  let busybox: string;
  let built: BuiltImage;

  before(async () => {
    await using owned = new AsyncDisposableStack();
    registry = owned.use(await startRegistry());
    daemon = owned.use(await startDaemon(subject));
    client = owned.use(
      createClient({
        address: daemon.address,
        namespace: daemon.namespace,
      }),
    );
    const layer = await busyboxLayer();
    built = buildIndex([buildManifest([layer], { Cmd: ['sh', '-c', 'echo hello; exit 7'] })]);
    busybox = await registry.push(built, 'library/busybox', 'latest');
    stack = owned.move();
  });

  after(async () => {
    await stack?.disposeAsync();
  });

  /** Runs a command in a new container to its end and removes it. */
  async function runToEnd(
    id: string,
    args: string[] | undefined,
    streams: StreamIoOptions = {},
    extra: { terminal?: boolean; user?: string; env?: string[] } = {},
  ): Promise<{ code: number; out: string; err: string }> {
    const out = sink();
    const err = sink();
    const { user, ...spec } = extra;
    const container = await client.createContainer({
      id,
      image: await client.images.get(busybox),
      spec: { ...(args === undefined ? {} : { args }), ...spec },
      ...(user === undefined ? {} : { user }),
    });
    const task = await container.createTask(client.streamIo({ stdout: out, stderr: err, ...streams }));
    const exit = task.wait();
    await task.start();
    const { code } = await exit;
    await task.delete();
    await container.delete();
    return { code, out: out.text(), err: err.text() };
  }

  test('pull fetches, unpacks and names an image, and tells of its progress', async () => {
    const seen = new Set<string>();
    const image = await client.pull(busybox, {
      plainHttp: true,
      onProgress: ({ kind, status, offsetBytes, totalBytes }) => {
        assert.ok(offsetBytes <= totalBytes);
        seen.add(`${kind} ${status}`);
      },
    });
    assert.equal(image.name, busybox);
    assert.equal(image.target.digest, built.index?.digest);
    for (const step of ['index downloaded', 'manifest downloaded', 'config downloaded', 'layer downloaded']) {
      assert.ok(seen.has(step), `${step} in ${[...seen]}`);
    }
    assert.ok(seen.has('layer extracted'));
    assert.ok(await image.isUnpacked('overlayfs'));
    assert.deepEqual(await client.leases.list(), []);
    assert.deepEqual(await client.content.statuses(), []);
    const index = await client.content.info(image.target.digest);
    assert.equal(index.labels.get('containerd.io/gc.ref.content.m.0'), built.manifests[0]!.manifest.digest);
    assert.equal(index.labels.get('containerd.io/distribution.source.127.0.0.1'), 'library/busybox');
    const config = await client.content.info(built.manifests[0]!.config.digest);
    assert.equal(config.labels.get('containerd.io/gc.ref.snapshot.overlayfs'), await image.chainId());
    const layer = await client.content.info(built.manifests[0]!.layers[0]!.digest);
    assert.equal(layer.labels.get('containerd.io/uncompressed'), built.manifests[0]!.layers[0]!.diffId);
  });

  test('pulling again fetches nothing, and joins repositories in the source label', async () => {
    const other = await registry.push(built, 'other/busybox', 'v1');
    const seen: string[] = [];
    await client.pull(other, { plainHttp: true, onProgress: ({ status }) => seen.push(status) });
    assert.ok(!seen.includes('downloaded') && !seen.includes('extracting'), String(seen));
    const index = await client.content.info(built.index!.digest);
    assert.equal(
      index.labels.get('containerd.io/distribution.source.127.0.0.1'),
      'library/busybox,other/busybox',
    );
    await client.images.delete(other, { sync: true });
    assert.equal(await client.images.get(other).catch(codeOf), 'not-found');
  });

  test('an image of four layers in three compressions is unpacked, without unpacking only fetched', async () => {
    const name = await registry.push(await featureImage(), 'feature', 'all');
    const fetched = await client.pull(name, { plainHttp: true, unpack: false });
    assert.equal(await fetched.isUnpacked('overlayfs'), false);
    const image = await client.pull(name, { plainHttp: true });
    assert.ok(await image.isUnpacked('overlayfs'));
    assert.ok((await image.sizeBytes()) > 100_000);
  });

  test('what is not there: registry, image, container, task', async () => {
    const missing = busybox.replace('latest', 'nothere');
    assert.equal(await client.pull(missing, { plainHttp: true }).catch(codeOf), 'not-found');
    assert.equal(await client.pull('127.0.0.1:1/a:b', { plainHttp: true }).catch(codeOf), 'unavailable');
    assert.equal(await client.images.get('nothing').catch(codeOf), 'not-found');
    assert.equal(await client.containers.get('nothing').catch(codeOf), 'not-found');
    assert.equal(
      await client.pull(busybox, { plainHttp: true, platform: 'linux/s390x' }).catch(codeOf),
      'not-found',
    );
    assert.deepEqual(await client.leases.list(), []);
  });

  test('the image’s own command runs, its output and exit status arrive', async () => {
    assert.deepEqual(await runToEnd('own-command', undefined), { code: 7, out: 'hello\n', err: '' });
  });

  test('both outputs, environment, user and megabytes through a pipe', async () => {
    const script = 'echo "$A-$(id -u):$(id -g)"; echo err >&2; head -c 3000000 /dev/zero | tr "\\0" x';
    const result = await runToEnd('outputs', ['sh', '-c', script], {}, { user: 'nobody', env: ['A=b'] });
    assert.equal(result.code, 0);
    assert.equal(result.err, 'err\n');
    assert.ok(result.out.startsWith('b-65534:65534\n'));
    assert.equal(result.out.length, 'b-65534:65534\n'.length + 3_000_000);
  });

  test('stdin reaches the command, and its end too', async () => {
    const stdin = new PassThrough();
    const done = runToEnd('stdin', ['sh', '-c', 'wc -c; echo end'], { stdin });
    stdin.write('x'.repeat(200_000));
    stdin.end('yz');
    assert.deepEqual(await done, { code: 0, out: '200002\nend\n', err: '' });
  });

  test('a terminal has the size it is given before the start', async () => {
    const out = sink();
    const container = await client.createContainer({
      id: 'terminal',
      image: await client.images.get(busybox),
      spec: { args: ['sh', '-c', 'stty size; tty; echo $TERM'], terminal: true },
    });
    const task = await container.createTask(client.streamIo({ stdout: out }));
    const exit = task.wait();
    await task.resize(12, 34);
    await task.start();
    assert.equal((await exit).code, 0);
    await task.delete();
    await container.delete();
    assert.match(out.text(), /^34 12\r\n\/dev\/pts\/0\r\nxterm\r\n$/);
  });

  test('exec, its status, signals, and what may not be deleted', async () => {
    const container = await client.createContainer({
      id: 'execs',
      image: await client.images.get(busybox),
      spec: { args: ['sleep', '1000'] },
    });
    const task = await container.createTask();
    const exit = task.wait();
    await task.start();
    assert.equal((await task.status()).status, Status.RUNNING);
    assert.equal(await task.delete().catch(codeOf), 'failed-precondition');
    assert.equal(await container.delete().catch(codeOf), 'failed-precondition');

    const out = sink();
    const spec = {
      ...container.spec().process,
      args: ['sh', '-c', 'echo in $0; exit 3', 'x'.repeat(20_000)],
    };
    const process = await task.exec('one', spec, client.streamIo({ stdout: out }));
    const ended = process.wait();
    await process.start();
    assert.equal((await ended).code, 3);
    assert.equal((await process.delete()).code, 3);
    assert.equal(out.text(), `in ${'x'.repeat(20_000)}\n`);

    const idle = await task.exec('two', { ...spec, args: ['sleep', '1000'] });
    await idle.start();
    assert.equal((await idle.delete({ force: true })).code, 128 + sigkill);
    const unstarted = await task.exec('three', { ...spec, args: ['true'] }, client.streamIo({}));
    await unstarted.delete();

    const again = await client.containers.get('execs');
    await (await again.task()).kill(sigkill);
    assert.equal((await exit).code, 128 + sigkill);
    await task.delete();
    assert.equal(await again.task().catch(codeOf), 'not-found');
    await again.delete();
  });

  test('a created task is force-deleted without having run', async () => {
    const container = await client.createContainer({
      id: 'created',
      image: await client.images.get(busybox),
      spec: { args: ['sleep', '1000'] },
    });
    const task = await container.createTask(client.streamIo({}));
    await task.delete({ force: true });
    await container.delete();
    assert.ok(!(await client.containers.list()).some(({ id }) => id === 'created'));
  });

  test('a command that does not exist fails the start; nothing stays behind', async () => {
    await assert.rejects(runToEnd('no-command', ['/no/such/command']), /no such file/);
    const container = await client.containers.get('no-command');
    const task = await container.task().catch(() => undefined);
    await task?.delete({ force: true });
    await container.delete();
    assert.equal(await client.snapshots('overlayfs').stat('no-command').catch(codeOf), 'not-found');
  });

  test('events tell of it all', async () => {
    const stop = new AbortController();
    const topics: string[] = [];
    const events = client.events.subscribe([`namespace==${daemon.namespace}`], { signal: stop.signal });
    const reading = (async () => {
      for await (const { topic, message } of events) {
        topics.push(topic);
        if (topic === '/tasks/exit') assert.equal(message?.['exitStatus'], 7);
        if (topic === '/containers/delete') break;
      }
    })();
    // A subscriber gets no signal that it is registered; an answer to a later call tells it.
    await client.version();
    await runToEnd('watched', undefined);
    await reading;
    for (const topic of [
      '/containers/create',
      '/tasks/create',
      '/tasks/start',
      '/tasks/exit',
      '/tasks/delete',
    ]) {
      assert.ok(topics.includes(topic), `${topic} in ${topics}`);
    }
    stop.abort();
  });

  test('a lease keeps content from being collected, and errors keep their class', async () => {
    const bytes = Buffer.from('leased content');
    const { createHash } = await import('node:crypto');
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}` as never;
    const ingest = (expected: never, lease?: string) =>
      client.content.ingest({
        ref: 'leased',
        expected,
        sizeBytes: BigInt(bytes.byteLength),
        lease,
        source: async function* (offset) {
          yield bytes.subarray(offset);
        },
      });
    {
      await using lease = await client.leases.acquire();
      assert.equal(await ingest(digest, lease.id), 'written');
      assert.equal(await ingest(digest, lease.id), 'exists');
      assert.equal((await client.content.readAll(digest, 100)).toString(), 'leased content');
      const lie = `sha256:${'0'.repeat(64)}` as never;
      assert.equal(await ingest(lie, lease.id).catch(codeOf), 'failed-precondition');
      assert.deepEqual(await client.content.statuses(), []);
    }
    assert.equal(await client.content.readAll(digest, 3).catch(codeOf), 'resource-exhausted');
    assert.equal(await client.content.info('sha256:x').catch(codeOf), 'invalid-argument');
  });

  test('signals: TERM is forwarded to the command', async () => {
    const container = await client.createContainer({
      id: 'trap',
      image: await client.images.get(busybox),
      spec: { args: ['sh', '-c', 'trap "exit 42" TERM; echo ready; while :; do sleep 0.1; done'] },
    });
    const out = sink();
    const ready = new Promise<void>((resolve) => out.once('finish', resolve).on('pipe', () => resolve()));
    const task = await container.createTask(client.streamIo({ stdout: out }));
    const exit = task.wait();
    await task.start();
    await ready;
    while (out.text() !== 'ready\n') await new Promise((resolve) => setTimeout(resolve, 10));
    await task.kill(sigterm);
    assert.equal((await exit).code, 42);
    await task.delete();
    await container.delete();
  });
});
