// What both daemons refuse, by ctr: the same exit status and class of error, and a message that names the thing.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { busyboxImage } from '../fixtures/image.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { lastFrame } from './mask.ts';
import { startPair } from './side.ts';

test('errors: both daemons refuse the same', async (t) => {
  await using registry = await startRegistry();
  const ref = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
  await using pair = await startPair();
  await pair.alike(async (side) => {
    await side.ok(['images', 'pull', '--plain-http', ref], { shape: lastFrame });
  });

  await t.test('images', () =>
    pair.alike(async (side) => {
      await side.fails('nonesuch', ['images', 'pull', '--plain-http', `${registry.host}/library/nonesuch:1`]);
      await side.fails('nonesuch', ['images', 'pull', '--plain-http', '--snapshotter', 'nonesuch', ref]);
      await side.fails('nonesuch', ['images', 'tag', 'example.com/nonesuch:1', 'example.com/x:1']);
      await side.fails('nonesuch', ['images', 'label', 'example.com/nonesuch:1', 'a=b']);
      await side.fails('nonesuch', ['images', 'mount', 'example.com/nonesuch:1', side.daemon.directory]);
      await side.fails('nonesuch', [
        'images',
        'export',
        join(side.daemon.directory, 'x.tar'),
        'example.com/nonesuch:1',
      ]);
      await side.fails('', ['images', 'pull', '--plain-http', 'not a reference']);
      const junk = join(side.daemon.directory, 'junk.tar');
      writeFileSync(junk, 'this is no archive'.repeat(100));
      await side.fails('', ['images', 'import', junk]);
      await side.fails('labels', ['images', 'label', ref, `long=${'x'.repeat(5000)}`]);
      await side.fails('', ['images', 'ls', 'name==/unquoted']);
      await side.ok(['images', 'ls', '-q']);
    }),
  );

  await t.test('containers and tasks', () =>
    pair.alike(async (side) => {
      await side.fails('nonesuch', ['run', '--rm', 'example.com/nonesuch:1', 'c1', 'true']);
      await side.fails('nonesuch', ['run', '--rm', '--snapshotter', 'nonesuch', ref, 'c1', 'true']);
      await side.fails('not/valid', ['run', '--rm', ref, 'not/valid', 'true']);
      await side.fails('x'.repeat(60), ['run', '--rm', ref, 'x'.repeat(77), 'true']);
      await side.fails('nonesuch', [
        'run',
        '--rm',
        '--runtime',
        'io.containerd.nonesuch.v1',
        ref,
        'c1',
        'true',
      ]);
      await side.fails('/nonesuch', ['run', '--rm', ref, 'c1', '/nonesuch']);
      await side.fails('c1', ['containers', 'info', 'c1']);
      await side.fails('c1', ['task', 'start', 'c1']);
      await side.fails('c1', ['task', 'kill', 'c1']);
      await side.fails('c1', ['task', 'exec', '--exec-id', 'e', 'c1', 'true']);
      await side.fails('c1', ['task', 'ps', 'c1']);
      await side.ctr(['containers', 'rm', 'c1'], { shape: () => '' });
      await side.ok(['containers', 'create', ref, 'c1', 'sleep', '100']);
      await side.fails('c1', ['containers', 'create', ref, 'c1']);
      await side.fails('c1', ['task', 'kill', 'c1']);
      await side.ok(['task', 'start', '-d', 'c1']);
      await side.fails('c1', ['task', 'start', '-d', 'c1']);
      await side.fails('c1', ['containers', 'rm', 'c1']);
      await side.fails('not/valid', ['task', 'exec', '--exec-id', 'not/valid', 'c1', 'true']);
      await side.fails('/nonesuch', ['task', 'exec', '--exec-id', 'e1', 'c1', '/nonesuch']);
      await side.fails('', ['task', 'kill', '--exec-id', 'nonesuch', 'c1']);
      await side.ok(['task', 'rm', '-f', 'c1'], { shape: () => '' });
      await side.ok(['containers', 'rm', 'c1']);
      await side.ok(['task', 'ls']);
      await side.ok(['containers', 'ls']);
      await side.ok(['snapshots', 'ls']);
    }),
  );

  await t.test('namespaces that are no identifiers', () =>
    pair.alike(async (side) => {
      for (const namespace of ['not/valid', '.dot', 'x'.repeat(77)]) {
        await side.fails('', ['-n', namespace, 'images', 'ls']);
        await side.fails('', ['-n', namespace, 'task', 'ls']);
        await side.fails('', ['-n', namespace, 'content', 'ls']);
      }
    }),
  );
});
