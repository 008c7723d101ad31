// The contract of snapshotters: what clients rely on, through the snapshot actor and the metadata store, with real
// mounts. Every backend passes it.
import assert from 'node:assert/strict';
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Info, Kind } from '../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import { needsRoot } from '../fixtures/kernel.ts';
import { coded, type MakeBackend, SnapshotBench, testNamespace } from './snapshotter-bench.ts';

export interface SnapshotterTraits {
  /** A commit can lay a parentless snapshot on another parent. */
  rebases: boolean;
  /** Usage of an active snapshot leaves the data of its parents out. */
  measuresOwnData: boolean;
  /** Usage counts the files of a snapshot, and not just what holds them all. Default true. */
  countsFiles?: boolean;
  /** Layers that are laid on one another; default 128. Fewer where each waits for a device. */
  layers?: number;
  /** It does its work elsewhere, where the umask of the test does not reach. */
  elsewhere?: boolean;
  /** Where its data is kept; the system's temporary directory unless said. */
  directory?: string | undefined;
  /** Why this machine cannot run it. */
  skip?: string | false;
}

export function snapshotterSuite(name: string, make: MakeBackend, traits: SnapshotterTraits): void {
  const check = (title: string, run: (bench: SnapshotBench) => Promise<void>) =>
    test(`${name}: ${title}`, { skip: needsRoot() || traits.skip || false }, async () => {
      await using bench = await SnapshotBench.start(make, traits.directory);
      await run(bench);
      assert.deepEqual(bench.metadata.errors, []);
      assert.deepEqual(bench.warnings, []);
    });

  check('an active snapshot is writable, its commit is a base for others', async (bench) => {
    await bench.layer('base', '', (root) => {
      writeFileSync(join(root, 'foo'), 'foo\n', { mode: 0o777 });
      mkdirSync(join(root, 'a/b/c'), { recursive: true });
    });
    await bench.layer('next', 'base', (root) => {
      assert.equal(readFileSync(join(root, 'foo'), 'utf8'), 'foo\n');
      writeFileSync(join(root, 'bar'), 'bar\n');
      rmSync(join(root, 'a/b'), { recursive: true });
    });
    await bench.mounted(await bench.prepare('top', 'next'), (root) => {
      assert.deepEqual(readdirSync(root).sort(), ['a', 'bar', 'foo']);
      assert.deepEqual(readdirSync(join(root, 'a')), []);
    });
    await bench.mounted(await bench.view('look', 'base'), (root) => {
      assert.deepEqual(readdirSync(root).sort(), ['a', 'foo']);
      assert.ok(existsSync(join(root, 'a/b/c')));
    });
  });

  check('records say name, parent, kind, times and the labels given', async (bench) => {
    await bench.prepare('work', '', { 'containerd.io/gc.root': 'x', mine: 'kept', empty: '' });
    const active = infoOf(bench, 'work');
    assert.equal(active.kind, Kind.ACTIVE);
    assert.equal(active.parent, '');
    assert.deepEqual(active.createdAt, active.updatedAt);
    assert.deepEqual(Object.fromEntries(active.labels), { 'containerd.io/gc.root': 'x', mine: 'kept' });
    await bench.commit('base', 'work', { other: 'y' });
    assert.throws(() => infoOf(bench, 'work'));
    const committed = infoOf(bench, 'base');
    assert.equal(committed.kind, Kind.COMMITTED);
    assert.deepEqual(Object.fromEntries(committed.labels), { other: 'y' });
    assert.deepEqual(committed.createdAt, committed.updatedAt);
    await bench.view('look', 'base');
    assert.equal(infoOf(bench, 'look').kind, Kind.VIEW);
    assert.equal(infoOf(bench, 'look').parent, 'base');
    assert.equal(infoOf(bench, 'look').labels.size, 0);
  });

  check('errors come in the order that clients know', async (bench) => {
    await bench.layer('base', '', () => {});
    await bench.prepare('work', 'base');
    await bench.view('look', 'base');
    const target = { 'containerd.io/snapshot.ref': 'base' };
    // The target first, then the key, then the parent.
    await assert.rejects(
      bench.prepare('work', 'missing', target),
      coded('already-exists', /target snapshot "base"/),
    );
    await assert.rejects(bench.prepare('work', 'missing'), coded('already-exists', /snapshot "work"/));
    await assert.rejects(bench.prepare('new', 'missing'), coded('not-found', /"missing"/));
    await assert.rejects(bench.prepare('new', 'work'), coded('invalid-argument'));
    await assert.rejects(bench.view('new', 'look'), coded('invalid-argument'));
    await assert.rejects(bench.prepare(''), coded('unknown', /empty/));
    await assert.rejects(bench.prepare('new', '', { key: 'v'.repeat(4097) }), coded('invalid-argument'));

    await assert.rejects(bench.commit('new', 'missing'), coded('not-found', /"missing"/));
    await assert.rejects(bench.commit('base', 'missing'), coded('already-exists', /"base"/));
    await assert.rejects(bench.commit('base', 'look'), coded('already-exists', /"base"/));
    await assert.rejects(bench.commit('new', 'look'), coded('failed-precondition'));
    await assert.rejects(bench.commit('new', 'base'), coded('failed-precondition'));

    await assert.rejects(bench.mounts('missing'), coded('not-found'));
    await assert.rejects(bench.mounts('base'), coded('failed-precondition'));
    await assert.rejects(bench.usage('missing'), coded('not-found'));

    await assert.rejects(bench.remove('missing'), coded('not-found'));
    await assert.rejects(bench.remove('base'), coded('failed-precondition', /remove/));
    await bench.remove('work');
    await bench.remove('look');
    await bench.remove('base');
  });

  check('a view is read-only and shows its parents', async (bench) => {
    await bench.layer('one', '', (root) => writeFileSync(join(root, 'one'), '1'));
    await bench.layer('two', 'one', (root) => writeFileSync(join(root, 'two'), '2'));
    for (const [key, parent, names] of [
      ['v0', '', []],
      ['v1', 'one', ['one']],
      ['v2', 'two', ['one', 'two']],
    ] as const) {
      await bench.mounted(await bench.view(key, parent), (root) => {
        assert.deepEqual(readdirSync(root).sort(), names);
        assert.throws(() => writeFileSync(join(root, 'new'), ''), { code: 'EROFS' });
        for (const name of names) assert.throws(() => unlinkSync(join(root, name)), { code: 'EROFS' });
      });
    }
  });

  check('the root directory has mode 0755 whatever the umask', async (bench) => {
    const umask = process.umask(traits.elsewhere === true ? 0o022 : 0o077);
    try {
      await bench.restart();
      await bench.layer('base', '', (root) => assert.equal(lstatSync(root).mode & 0o7777, 0o755));
      await bench.mounted(await bench.prepare('next', 'base'), (root) =>
        assert.equal(lstatSync(root).mode & 0o7777, 0o755),
      );
    } finally {
      process.umask(umask);
    }
  });

  check('mounts can be asked for again and again', async (bench) => {
    await bench.layer('base', '', () => {});
    const mounts = await bench.prepare('work', 'base');
    assert.deepEqual(await bench.mounts('work'), mounts);
    await bench.mounted(mounts, (root) => writeFileSync(join(root, 'f'), 'x'));
    await bench.mounted(await bench.mounts('work'), (root) =>
      assert.equal(readFileSync(join(root, 'f'), 'utf8'), 'x'),
    );
  });

  check('files, directories and links vanish and change through layers', async (bench) => {
    await bench.layer('one', '', (root) => {
      for (const file of ['keep', 'gone', 'replaced']) writeFileSync(join(root, file), file);
      mkdirSync(join(root, 'dir/sub'), { recursive: true });
      writeFileSync(join(root, 'dir/sub/f'), 'x');
      symlinkSync('keep', join(root, 'link'));
    });
    await bench.layer('two', 'one', (root) => {
      rmSync(join(root, 'gone'));
      rmSync(join(root, 'dir'), { recursive: true });
      rmSync(join(root, 'replaced'));
      mkdirSync(join(root, 'replaced'));
      rmSync(join(root, 'link'));
      writeFileSync(join(root, 'link'), 'file now');
    });
    await bench.layer('three', 'two', (root) => {
      mkdirSync(join(root, 'dir'));
      writeFileSync(join(root, 'gone'), 'back');
    });
    await bench.mounted(await bench.view('look', 'three'), (root) => {
      assert.deepEqual(readdirSync(root).sort(), ['dir', 'gone', 'keep', 'link', 'replaced']);
      assert.deepEqual(readdirSync(join(root, 'dir')), []);
      assert.ok(lstatSync(join(root, 'replaced')).isDirectory());
      assert.ok(lstatSync(join(root, 'link')).isFile());
      assert.equal(readFileSync(join(root, 'gone'), 'utf8'), 'back');
    });
  });

  check('hard links within a layer stay links', async (bench) => {
    await bench.layer('one', '', (root) => {
      writeFileSync(join(root, 'a'), 'data');
      mkdirSync(join(root, 'd'));
      linkSync(join(root, 'a'), join(root, 'd/b'));
    });
    await bench.mounted(await bench.prepare('work', 'one'), (root) => {
      const a = lstatSync(join(root, 'a'));
      assert.equal(a.nlink, 2);
      assert.equal(lstatSync(join(root, 'd/b')).ino, a.ino);
    });
  });

  check('usage counts each inode once, is stored at commit, and zero for views', async (bench) => {
    const blockSize = 128 * 1024;
    await bench.mounted(await bench.prepare('work'), (root) => {
      writeFileSync(join(root, 'big'), Buffer.alloc(blockSize, 1));
      linkSync(join(root, 'big'), join(root, 'same'));
    });
    const active = await bench.usage('work');
    if (traits.countsFiles ?? true) {
      assert.equal(active.inodes, 2, 'the root and one file with two names');
      assert.ok(active.sizeBytes >= blockSize && active.sizeBytes < 1.5 * blockSize);
    } else assert.equal(active.inodes, 1);
    await bench.commit('base', 'work');
    assert.deepEqual(await bench.usage('base'), active);
    await bench.view('look', 'base');
    assert.deepEqual(await bench.usage('look'), { sizeBytes: 0, inodes: 0 });
    await bench.prepare('next', 'base');
    const own = await bench.usage('next');
    // What is only copied adds nothing of its own.
    if (traits.measuresOwnData) assert.ok(own.inodes === 1 && own.sizeBytes < blockSize);
    else assert.deepEqual(own, active);
  });

  check('a key and a name can be used again at once after a removal', async (bench) => {
    for (let round = 0; round < 5; round++) {
      await bench.mounted(await bench.prepare('work'), (root) => {
        assert.deepEqual(readdirSync(root), []);
        writeFileSync(join(root, `round-${round}`), '');
      });
      await bench.commit('base', 'work');
      await bench.prepare('child', 'base');
      await bench.remove('child');
      await bench.remove('base');
    }
  });

  const layers = traits.layers ?? 128;
  check(`${layers} layers lie on one another`, async (bench) => {
    let parent = '';
    for (let i = 1; i <= layers; i++) {
      const key = `l${i}`;
      await bench.mounted(await bench.prepare(`extract ${key}`, parent), (root) => {
        writeFileSync(join(root, 'bottom'), `written by ${i}`);
        writeFileSync(join(root, `f${i}`), '');
        if (i > 1) rmSync(join(root, `f${i - 1}`));
      });
      await bench.commit(key, `extract ${key}`);
      parent = key;
    }
    await bench.mounted(await bench.prepare('top', parent), (root) => {
      assert.deepEqual(readdirSync(root).sort(), ['bottom', `f${layers}`]);
      assert.equal(readFileSync(join(root, 'bottom'), 'utf8'), `written by ${layers}`);
    });
  });

  check('a commit may bring the parent of a parentless snapshot', async (bench) => {
    await bench.layer('base', '', (root) => writeFileSync(join(root, 'low'), 'low'));
    await bench.layer('other', '', () => {});
    await bench.mounted(await bench.prepare('work'), (root) => writeFileSync(join(root, 'high'), 'high'));
    if (!traits.rebases) {
      await assert.rejects(bench.commit('top', 'work', {}, 'base'), coded('failed-precondition'));
      return;
    }
    await assert.rejects(bench.commit('top', 'work', {}, 'missing'), coded('not-found'));
    await assert.rejects(bench.commit('top', 'work', {}, 'work'), coded('failed-precondition'));
    await bench.commit('top', 'work', {}, 'base');
    assert.equal(infoOf(bench, 'top').parent, 'base');
    await assert.rejects(bench.remove('base'), coded('failed-precondition'));
    await bench.mounted(await bench.view('look', 'top'), (root) =>
      assert.deepEqual(readdirSync(root).sort(), ['high', 'low']),
    );
    // A parent that is there already is kept.
    await bench.prepare('second', 'base');
    await bench.commit('kept', 'second', {}, 'other');
    assert.equal(infoOf(bench, 'kept').parent, 'base');
  });

  check('of prepares and commits of one key at once, one wins and nothing is left over', async (bench) => {
    const outcomes = await Promise.allSettled(Array.from({ length: 10 }, () => bench.prepare('work')));
    const refused = outcomes.filter((outcome) => outcome.status === 'rejected');
    assert.equal(refused.length, 9);
    for (const { reason } of refused) assert.ok(coded('already-exists')(reason));
    const commits = await Promise.allSettled(Array.from({ length: 10 }, () => bench.commit('base', 'work')));
    assert.equal(commits.filter((outcome) => outcome.status === 'fulfilled').length, 1);
    await bench.cleanup();
    assert.equal(entriesOf(bench).length, 1);
  });

  check('a crash leaves nothing behind after the next start', async (bench) => {
    await bench.layer('base', '', (root) => writeFileSync(join(root, 'f'), 'x'));
    await bench.prepare('work', 'base');
    const before = entriesOf(bench);
    await bench.restart(() => {
      mkdirSync(join(bench.backend.root, 'snapshots/999/fs/deep/er'), { recursive: true });
      mkdirSync(join(bench.backend.root, 'snapshots/new-123'));
      writeFileSync(join(bench.backend.root, 'snapshots/stray'), '');
    });
    assert.deepEqual(entriesOf(bench), before);
    await bench.mounted(await bench.mounts('work'), (root) =>
      assert.equal(readFileSync(join(root, 'f'), 'utf8'), 'x'),
    );
    // Ids are not used again, not even those that only the disk knew.
    await bench.prepare('later', 'base');
    assert.ok(idOf(bench, 'later') > 999);
  });

  check('an id is never used twice, even when the highest was removed before a restart', async (bench) => {
    await bench.prepare('first');
    const id = idOf(bench, 'first');
    await bench.remove('first');
    await bench.cleanup();
    assert.deepEqual(entriesOf(bench), []);
    await bench.restart();
    await bench.prepare('first');
    assert.ok(idOf(bench, 'first') > id);
  });

  check('cleanup spares what is being made meanwhile', async (bench) => {
    await bench.layer('base', '', (root) => writeFileSync(join(root, 'f'), 'x'));
    const work = Array.from({ length: 40 }, async (_, i) => {
      await bench.prepare(`k${i}`, 'base');
      if (i % 2 === 0) await bench.commit(`n${i}`, `k${i}`);
      if (i % 4 === 0) await bench.remove(`n${i}`);
    });
    const cleanups = Array.from({ length: 10 }, () => bench.cleanup());
    await Promise.all([...work, ...cleanups]);
    await bench.cleanup();
    for (let i = 0; i < 40; i++) {
      if (i % 4 === 0) continue;
      const key = i % 2 === 0 ? `check ${i}` : `k${i}`;
      const mounts = i % 2 === 0 ? await bench.view(key, `n${i}`) : await bench.mounts(key);
      await bench.mounted(mounts, (root) => assert.equal(readFileSync(join(root, 'f'), 'utf8'), 'x'));
    }
  });
}

function infoOf(bench: SnapshotBench, key: string): Info {
  const record = bench.metadata.reader.snapshot(testNamespace, bench.backend.name, key);
  assert.ok(record !== undefined, `snapshot ${key}`);
  return Info.decode(record.info);
}

function idOf(bench: SnapshotBench, key: string): number {
  return bench.metadata.reader.snapshot(testNamespace, bench.backend.name, key)?.id ?? 0;
}

function entriesOf(bench: SnapshotBench): string[] {
  return readdirSync(join(bench.backend.root, 'snapshots')).sort();
}
