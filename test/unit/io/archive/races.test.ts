// Somebody else works in the tree while a layer is unpacked into it, swapping directories and files for symlinks that
// lead out: nothing outside may change, whatever the unpacking itself comes to.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import type { Sys } from '../../../../src/api/model/ports/sys.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { applyTar, dir, type Entry, file, link, scoped, snapshotOf, sub, tarOf } from './layers.ts';

const options = { skip: process.getuid?.() !== 0 && 'needs root' };
const sys = createSys();
const roundsMin = 40;
const swapsMin = 2000;

/** Swaps each name for a symlink and back, as fast as it can, until the first word of `shared` is set. */
const swapper = `
  const fs = require('node:fs');
  const { workerData: { root, outside, names, shared } } = require('node:worker_threads');
  const flags = new Int32Array(shared);
  const quietly = (work) => { try { work(); } catch {} };
  for (const name of names) fs.symlinkSync(outside + '/' + name, root + '/.link-' + name);
  while (Atomics.load(flags, 0) === 0) {
    for (const name of names) {
      const at = root + '/' + name;
      quietly(() => fs.renameSync(at, root + '/.away-' + name));
      quietly(() => fs.renameSync(root + '/.link-' + name, at));
      quietly(() => fs.renameSync(at, root + '/.link-' + name));
      quietly(() => fs.renameSync(root + '/.away-' + name, at));
      if (!fs.existsSync(root + '/.link-' + name)) {
        quietly(() => fs.symlinkSync(outside + '/' + name, root + '/.link-' + name));
      }
      Atomics.add(flags, 1, 1);
    }
  }
`;

const names = ['d', 'f', 'p', 'e'];

const layer: Entry[] = [
  dir('d', { mode: 0o777, uid: 99 }),
  file('d/new', 'x', { mode: 0o4777, uid: 99 }),
  dir('d/sub', { mode: 0o777, uid: 99 }),
  file('d/sub/new', 'x'),
  { type: 'fifo', name: 'p', mode: 0o777, uid: 99 },
  file('f', 'changed', { mode: 0o777, uid: 99, xattrs: [['user.x', Buffer.from('y')]] }),
  link('d/hard', 'f', { mode: 0o777, uid: 99 }),
  dir('e', { mode: 0o777, uid: 99, xattrs: [['user.x', Buffer.from('y')]] }),
  file('e/.wh.canary'),
  file('d/.wh..wh..opq'),
];

/** What the symlinks lead to: it must stay as it is. */
function makeOutside(directory: string): string {
  const outside = sub(directory, 'outside');
  for (const name of ['d', 'e']) {
    sub(outside, `${name}/sub`);
    fs.writeFileSync(path.join(outside, name, 'canary'), 'alive', { mode: 0o600 });
  }
  for (const name of ['f', 'p']) fs.writeFileSync(path.join(outside, name), 'alive', { mode: 0o600 });
  return outside;
}

for (const whiteouts of ['plain', 'overlay'] as const) {
  test(`symlinks swapped in while a layer is unpacked lead nowhere (${whiteouts})`, options, () =>
    scoped(sys, async (directory) => {
      const outside = makeOutside(directory);
      const before = snapshotOf(sys, outside);
      const root = sub(directory, 'root');
      const shared = new SharedArrayBuffer(8);
      const flags = new Int32Array(shared);
      const worker = new Worker(swapper, { eval: true, workerData: { root, outside, names, shared } });
      const failed = new Promise<never>((_, reject) => worker.once('error', reject));
      const archive = tarOf(layer);
      const deadline = Date.now() + 60_000;
      try {
        for (
          let round = 0;
          round < roundsMin || (Atomics.load(flags, 1) < swapsMin && Date.now() < deadline);
          round++
        ) {
          try {
            applyTar(sys, root, archive, { whiteouts, lowerDirectories: [] });
          } catch (error) {
            // Names come and go under it: any system error will do, but a mistake of ours will not.
            assert.ok(typeof (error as { code?: unknown }).code === 'string', String(error));
          }
          if (round % 8 === 0) await Promise.race([failed, new Promise((resolve) => setImmediate(resolve))]);
        }
      } finally {
        Atomics.store(flags, 0, 1);
        await worker.terminate();
      }
      assert.deepEqual(snapshotOf(sys, outside), before);
    }),
  );
}

/** A `Sys` that puts a symlink in the place of `name` right before its call number `swapAt`. */
function swappingSys(
  root: string,
  outside: string,
  name: string,
  swapAt: number,
): { sys: Sys; calls: () => number } {
  let calls = 0;
  const swapped = new Proxy(sys, {
    get(target, property) {
      const value = Reflect.get(target, property);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]) => {
        if (calls++ === swapAt) {
          const at = path.join(root, name);
          if (fs.lstatSync(at, { throwIfNoEntry: false }) !== undefined) {
            fs.renameSync(at, path.join(root, `.away-${name}`));
          }
          fs.symlinkSync(path.join(outside, name), at);
        }
        return value.apply(target, args);
      };
    },
  });
  return { sys: swapped, calls: () => calls };
}

for (const whiteouts of ['plain', 'overlay'] as const) {
  test(`a symlink that appears before any one call leads nowhere (${whiteouts})`, options, () =>
    scoped(sys, (directory) => {
      const outside = makeOutside(directory);
      const before = snapshotOf(sys, outside);
      const archive = tarOf(layer);
      for (const name of names) {
        for (let swapAt = 0, total = 1; swapAt < total; swapAt++) {
          const root = sub(directory, `root-${name}-${swapAt}`);
          const hooked = swappingSys(root, outside, name, swapAt);
          try {
            applyTar(hooked.sys, root, archive, { whiteouts, lowerDirectories: [] });
          } catch (error) {
            assert.ok(typeof (error as { code?: unknown }).code === 'string', String(error));
          }
          total = Math.max(total, hooked.calls());
          assert.deepEqual(snapshotOf(sys, outside), before, `swapped ${name} before call ${swapAt}`);
          fs.rmSync(root, { recursive: true });
        }
      }
    }),
  );
}

test('changing the mode of a name follows no symlink', options, () =>
  scoped(sys, (directory) => {
    const target = path.join(directory, 'target');
    fs.writeFileSync(target, '', { mode: 0o600 });
    fs.symlinkSync('target', path.join(directory, 'link'));
    assert.throws(() => sys.fchmodat(-100, path.join(directory, 'link'), 0o777), {
      code: /ENOTSUP|EOPNOTSUPP/,
    });
    assert.equal(fs.statSync(target).mode & 0o777, 0o600);
    sys.fchmodat(-100, target, 0o640);
    assert.equal(fs.statSync(target).mode & 0o777, 0o640);
  }),
);
