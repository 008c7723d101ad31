// The daemon is killed at random moments of a pull: its store opens again, no blob is wrong, the pull succeeds.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ServiceError, status } from '@grpc/grpc-js';
import { ContentDefinition } from '../../src/api/proto/gen/services/content/v1/content.ts';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import {
  type BuiltImage,
  buildLayer,
  buildManifest,
  busyboxLayer,
  type Compression,
  generator,
  type Layer,
} from '../fixtures/image.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { mountsBelow } from '../fixtures/scratch.ts';
import { subject } from './side.ts';

/** Some of the thousand that `npm run crash` makes, whose workload pulls as well; more by hand. */
const killCount = Number(process.env['TROUPE_PULL_KILLS'] ?? 15);
const seed = Number(process.env['TROUPE_SEED'] ?? Math.floor(Math.random() * 2 ** 31));

/** Three layers of noise that no other round has, so that every round has something to fetch. */
async function image(base: Layer, round: number): Promise<BuiltImage> {
  const random = generator(seed + round);
  const layers = [base];
  for (const compression of ['gzip', 'zstd', 'none'] satisfies Compression[]) {
    const entries = Array.from({ length: 40 }, (_, index) => {
      const content = Buffer.alloc(32_768);
      for (let at = 0; at < content.length; at += 4) content.writeUInt32LE(random(), at);
      return { name: `${compression}/${index}`, content };
    });
    layers.push(await buildLayer(entries, compression));
  }
  return { manifests: [buildManifest(layers)] };
}

/** Reads every blob that the daemon lists and demands its digest and size. */
async function checkContent(daemon: Daemon): Promise<number> {
  using client = daemon.grpc();
  const options = { namespace: daemon.namespace };
  const infos = (await client.list(ContentDefinition, 'list', {}, options)).flatMap(
    (message) => message.info,
  );
  for (const { digest, size } of infos) {
    const hash = createHash('sha256');
    let bytes = 0n;
    const chunks = await client
      .list(ContentDefinition, 'read', { digest }, options)
      .catch((error: ServiceError) => {
        if (error.code === status.NOT_FOUND) return undefined;
        throw error;
      });
    if (chunks === undefined) {
      // Collected since it was listed; a blob that is listed and cannot be read would fail here.
      await assert.rejects(client.call(ContentDefinition, 'info', { digest }, options), {
        code: status.NOT_FOUND,
      });
      continue;
    }
    for (const { data } of chunks) {
      hash.update(data);
      bytes += BigInt(data.length);
    }
    assert.equal(`sha256:${hash.digest('hex')}`, digest);
    assert.equal(bytes, size, `size of ${digest}`);
  }
  return infos.length;
}

test(`kill -9 during a pull, ${killCount} times`, async (t) => {
  t.diagnostic(`seed ${seed}; set TROUPE_SEED to repeat it`);
  const random = generator(seed);
  await using registry = await startRegistry();
  const base = await busyboxLayer();
  await using daemon = await startDaemon(subject);
  const pull = (ref: string, signal?: AbortSignal) =>
    daemon.ctr(['images', 'pull', '--plain-http', ref], signal === undefined ? {} : { signal });

  const first = await registry.push(await image(base, 0), 'library/noise', 'r0');
  const began = performance.now();
  await daemon.ctrOk(['images', 'pull', '--plain-http', first]);
  let pullMs = performance.now() - began;

  let interrupted = 0;
  for (let round = 1; round <= killCount; round++) {
    const ref = await registry.push(await image(base, round), 'library/noise', `r${round}`);
    const giveUp = new AbortController();
    const pulling = pull(ref, giveUp.signal);
    const afterMs = (random() / 2 ** 32) * pullMs;
    await sleep(afterMs);
    await daemon.stop('SIGKILL');
    // To ctr a daemon that is gone looks like an ingest that somebody else holds, for which it waits without end.
    giveUp.abort();
    // A pull that was done by then shows that the machine has become faster than it was at first.
    if ((await pulling).code !== 0) interrupted++;
    else pullMs = Math.min(pullMs, afterMs);
    await daemon.start();
    const where = `round ${round}, killed after ${afterMs.toFixed(1)} ms`;
    await checkContent(daemon).catch((error) => {
      throw new Error(`${where}: ${error}`, { cause: error });
    });
    const again = await pull(ref);
    assert.equal(again.code, 0, `${where}: ${again.stdout}${again.stderr}\n${daemon.log()}`);
    const check = await daemon.ctrOk(['images', 'check', `name==${ref}`]);
    assert.match(check, /complete \(5\/5\).* true/, where);
    // What earlier rounds left would make later ones slower to check.
    await daemon.ctrOk(['images', 'rm', ref]);
  }
  t.diagnostic(`${interrupted} of ${killCount} pulls were interrupted`);
  assert.ok(interrupted > killCount / 4, 'hardly any pull was interrupted');
  assert.ok((await checkContent(daemon)) > 0);
  assert.equal((await daemon.ctr(['run', '--rm', first, 'after', 'echo', 'it runs'])).stdout, 'it runs\n');
  assert.deepEqual(mountsBelow(daemon.directory), []);
});
