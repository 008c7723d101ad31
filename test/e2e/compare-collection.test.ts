// What stays and what goes after a deletion that waits for the collection, by ctr on both daemons.
import { test } from 'node:test';
import { featureImage } from '../fixtures/feature-image.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { until } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { lastFrame } from './mask.ts';
import { type Side, startPair } from './side.ts';

async function kept(side: Side): Promise<void> {
  for (const args of [
    ['images', 'ls', '-q'],
    ['content', 'ls', '-q'],
    ['snapshots', 'ls'],
    ['leases', 'ls', '-q'],
  ]) {
    await side.ok(args);
  }
}

test('collection: the same is kept and the same removed', async (t) => {
  await using registry = await startRegistry();
  const busybox = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
  const feature = await registry.push(await featureImage(), 'library/feature', 'v1');
  await using pair = await startPair({ collect: true });
  await pair.alike(async (side) => {
    for (const ref of [busybox, feature])
      await side.ok(['images', 'pull', '--plain-http', ref], { shape: lastFrame });
  });

  await t.test('an image goes with what only it referred to', () =>
    pair.alike(async (side) => {
      await side.ok(['images', 'rm', '--sync', feature]);
      await kept(side);
    }),
  );

  await t.test('a container keeps its snapshots, not its image', () =>
    pair.alike(async (side) => {
      await side.ok(['containers', 'create', busybox, 'keeper', 'true']);
      await side.ok(['images', 'rm', '--sync', busybox]);
      await kept(side);
      await side.ok(['containers', 'rm', 'keeper']);
      await side.ok(['leases', 'create', '--id', 'sync', '--expires', '0']);
      await side.ok(['leases', 'rm', '--sync', 'sync']);
      await kept(side);
    }),
  );

  await t.test('a lease keeps nothing once it has expired; content without one goes', () =>
    pair.alike(async (side) => {
      await side.ok(['content', 'ingest', 'loose'], { input: 'loose' });
      await side.ok(['leases', 'create', '--id', 'short', '--expires', '1s']);
      await until('the lease has expired', async () => {
        await side.daemon.ctrOk(['leases', 'create', '--id', 'sync', '--expires', '0']);
        await side.daemon.ctrOk(['leases', 'rm', '--sync', 'sync']);
        return (await side.daemon.ctrOk(['leases', 'ls', '-q'])).includes('short') ? undefined : true;
      });
      await kept(side);
    }),
  );

  await t.test('the image comes back', () =>
    pair.alike(async (side) => {
      await side.ok(['images', 'pull', '--plain-http', busybox], { shape: lastFrame });
      await kept(side);
      await side.ok(['run', '--rm', busybox, 'again', 'echo', 'again']);
    }),
  );
});
