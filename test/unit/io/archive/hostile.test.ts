// Archives that try to leave their root: whatever they say, nothing outside changes. Canaries stand watch.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { codeOf } from '../../../../src/api/model/errors.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { applyTar, dir, type Entry, file, link, scoped, snapshotOf, sub, symlink, tarOf } from './layers.ts';

const options = { skip: process.getuid?.() !== 0 && 'needs root' };
const sys = createSys();
const up = '../'.repeat(20);

/** Runs `use` with a root and, beside it, a directory that must not change. */
function guarded(use: (root: string, outside: string) => void): Promise<void> {
  return scoped(sys, (directory) => {
    const root = sub(directory, 'jail/root');
    const outside = sub(directory, 'outside');
    fs.writeFileSync(path.join(outside, 'canary'), 'alive', { mode: 0o640 });
    sub(outside, 'dir');
    fs.writeFileSync(path.join(outside, 'dir/canary'), 'alive too');
    const everywhere = () => {
      const { root: _, ...jail } = snapshotOf(sys, path.dirname(root)) as Record<string, { mtime?: string }>;
      const rest = Object.entries(jail).filter(([name]) => !name.startsWith('root'));
      return JSON.stringify([snapshotOf(sys, outside), rest, fs.readdirSync(directory)]);
    };
    const before = everywhere();
    use(root, outside);
    assert.equal(everywhere(), before);
  });
}

/** Entries, and what stands in the root afterwards: contents by name, or the code of the refusal. */
interface Case {
  name: string;
  entries: (outside: string) => Entry[];
  files?: Record<string, string>;
  refused?: string;
}

const cases: Case[] = [
  { name: 'absolute name', entries: (o) => [file(`${o}/new`, 'x')] },
  { name: 'up and out', entries: () => [file(`${up}outside/new`, 'x')], files: { 'outside/new': 'x' } },
  { name: 'up inside a name', entries: () => [file('a/../../../b', 'x')], files: { b: 'x' } },
  {
    name: 'absolute symlink, then a write through it',
    entries: (o) => [symlink('link', o), file('link/new', 'x')],
  },
  {
    name: 'relative symlink, then a write through it',
    entries: () => [symlink('link', '../../outside'), file('link/new', 'x')],
    files: { 'outside/new': 'x' },
  },
  {
    name: 'chained symlinks',
    entries: (o) => [
      symlink('one', '../..'),
      symlink('two', 'one/outside'),
      symlink('three', `/two/${o}`),
      file('two/canary', 'x'),
      file('three/y', 'y'),
    ],
    files: { 'outside/canary': 'x' },
  },
  {
    name: 'symlinks in a loop',
    entries: () => [symlink('a', 'b'), symlink('b', 'a'), file('a/x')],
    refused: 'invalid-argument',
  },
  {
    name: 'truncation through a symlink',
    entries: (o) => [symlink('file', `${o}/canary`), file('file', 'x')],
    files: { file: 'x' },
  },
  {
    name: 'hard link through a relative symlink',
    entries: () => [symlink('s', '../../outside'), link('h', 's/canary'), file('h', 'x')],
    refused: 'unknown',
  },
  {
    name: 'hard link through an absolute symlink',
    entries: (o) => [symlink('s', o), link('h', 's/canary')],
    refused: 'unknown',
  },
  { name: 'hard link to an absolute name', entries: (o) => [link('h', `${o}/canary`)], refused: 'unknown' },
  { name: 'hard link up and out', entries: () => [link('h', `${up}etc/passwd`)], refused: 'unknown' },
  { name: 'hard link to the root', entries: () => [link('h', '../..')], refused: 'invalid-argument' },
  {
    name: 'hard link to a symlink, then chmod and chown of the link',
    entries: (o) => [
      symlink('s', `${o}/canary`),
      link('h', 's', { mode: 0o777, uid: 99 }),
      link('i', 'h', { mode: 0o4777, uid: 99 }),
    ],
  },
  {
    name: 'write over a hard link to a symlink',
    entries: (o) => [symlink('s', `${o}/canary`), link('h', 's'), file('h', 'x')],
    files: { h: 'x' },
  },
  {
    name: 'symlink replacing a directory, then a write below it',
    entries: (o) => [dir('d'), file('d/a', 'a'), symlink('d', o), file('d/new', 'x')],
  },
  {
    name: 'directory replacing a symlink',
    entries: (o) => [symlink('d', o), dir('d', { mode: 0o777 }), file('d/new', 'x')],
    files: { 'd/new': 'x' },
  },
  {
    name: 'slash-terminated directory over a symlink',
    entries: (o) => [symlink('d', o), dir('d/', { uid: 99, mode: 0o777 })],
  },
  {
    name: 'directory and hard links below a replaced one',
    entries: (o) => [dir('d'), file('d/a', 'a'), symlink('d', o), link('d/h', 'd/dir/canary')],
    refused: 'unknown',
  },
  {
    name: 'names that mean the root',
    entries: () => [
      dir('..', { mode: 0o777 }),
      dir('.'),
      dir('/'),
      dir('x/..'),
      file('a/..', ''),
      file('ok', 'x'),
    ],
    files: { ok: 'x' },
  },
  { name: 'whiteout of the parent', entries: () => [file('.wh...')], refused: 'invalid-argument' },
  { name: 'whiteout of the directory', entries: () => [file('.wh..')], refused: 'invalid-argument' },
  { name: 'whiteout of nothing', entries: () => [file('.wh.')], refused: 'invalid-argument' },
  { name: 'whiteout of the parent, deeper', entries: () => [file('a/.wh...')], refused: 'invalid-argument' },
  {
    name: 'whiteout of a symlink removes the symlink',
    entries: (o) => [symlink('s', o), file('.wh.s')],
    files: {},
  },
  {
    name: 'whiteout through a symlink',
    entries: () => [symlink('s', '../../outside'), file('s/.wh.canary'), file('s/.wh.dir')],
  },
  { name: 'whiteout through an absolute symlink', entries: (o) => [symlink('s', o), file('s/.wh.canary')] },
  { name: 'whiteout up and out', entries: () => [file(`x/../${up}outside/.wh.canary`)] },
  {
    name: 'opaque marker through a symlink',
    entries: (o) => [symlink('s', o), file('s/.wh..wh..opq')],
  },
  {
    name: 'whiteout prefix as directory name',
    entries: () => [file('.wh.d/f', 'x')],
    files: { '.wh.d/f': 'x' },
  },
  {
    name: 'symlink to / over a subtree',
    entries: (o) => [dir('sub'), symlink('sub', '/'), file(`sub${o}/new`, 'x'), file('sub/top', 'y')],
    files: { top: 'y' },
  },
  {
    name: 'attributes through a symlink',
    entries: (o) => [symlink('s', `${o}/canary`, { uid: 99, xattrs: [['trusted.x', Buffer.from('y')]] })],
  },
  { name: 'NUL in a PAX name', entries: () => [file(`${'é'}\0x`)], refused: 'invalid-argument' },
];

for (const { name, entries, files, refused } of cases) {
  for (const mode of ['plain', 'overlay'] as const) {
    test(`${name} (${mode})`, options, () =>
      guarded((root, outside) => {
        const archive = tarOf(entries(outside));
        const apply = () => applyTar(sys, root, archive, { whiteouts: mode, lowerDirectories: [] });
        if (refused !== undefined) assert.throws(apply, (error) => codeOf(error) === refused);
        else apply();
        for (const [file, content] of Object.entries(files ?? {})) {
          assert.equal(fs.readFileSync(path.join(root, file), 'utf8'), content);
        }
      }),
    );
  }
}

const hostileName = fc
  .array(fc.constantFrom('a', 'b', '..', '.', '', 'l', '.wh.a', '.wh.b', '.wh..wh..opq', '.wh..', '.wh.l'), {
    maxLength: 5,
  })
  .map((parts) => parts.join('/'));

test('random archives of symlinks, links, whiteouts and writes never reach outside', options, () =>
  guarded((root, outside) => {
    const target = fc.oneof(
      hostileName,
      fc.constantFrom(outside, `${outside}/canary`, `${up}${outside}`, '/'),
    );
    const entry = fc.record({
      type: fc.constantFrom('file', 'directory', 'symlink', 'hardlink', 'fifo'),
      name: fc.oneof(hostileName, target),
      linkName: target,
      mode: fc.constantFrom(0o777, 0o4755),
      uid: fc.constantFrom(0, 99),
      content: fc.constantFrom('', 'x'),
    });
    const open = fs.readdirSync('/proc/self/fd').length;
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 12 }), fc.boolean(), (entries, overlay) => {
        const used = fs.mkdtempSync(path.join(root, 't'));
        try {
          applyTar(sys, used, tarOf(entries as Entry[]), {
            whiteouts: overlay ? 'overlay' : 'plain',
            lowerDirectories: [root],
          });
        } catch (error) {
          assert.notEqual((error as Error).name, 'TypeError');
          assert.notEqual((error as Error).name, 'RangeError');
        } finally {
          fs.rmSync(used, { recursive: true });
        }
        assert.equal(fs.readFileSync(path.join(outside, 'canary'), 'utf8'), 'alive');
        assert.equal(fs.readFileSync(path.join(outside, 'dir/canary'), 'utf8'), 'alive too');
      }),
      { numRuns: 400 },
    );
    assert.equal(fs.readdirSync('/proc/self/fd').length, open, 'descriptors are closed whatever happens');
  }),
);

test('mutated archives are refused with a code or applied, never a crash', options, () =>
  guarded((root) => {
    const seed = tarOf([
      dir('d'),
      file('d/f', 'some content', { xattrs: [['user.x', Buffer.from('y')]] }),
      file('n'.repeat(150), 'x'.repeat(700)),
      symlink('s', 'd'),
      link('h', 'd/f'),
      { type: 'fifo', name: 'p' },
      file('é'),
    ]);
    const change = fc.record({ at: fc.nat(seed.length - 1), byte: fc.nat(255) });
    fc.assert(
      fc.property(
        fc.array(change, { maxLength: 8 }),
        fc.nat(seed.length),
        fc.nat(2000),
        (changes, cut, piece) => {
          const archive = Buffer.from(seed.subarray(0, seed.length - (cut % 1024)));
          for (const { at, byte } of changes) if (at < archive.length) archive[at] = byte;
          // A mutated header would fail its checksum and hide what comes after: put the sums right again.
          for (let at = 0; at + 512 <= archive.length; at += 512) {
            if (archive.toString('latin1', at + 257, at + 262) === 'ustar') fixChecksum(archive, at);
          }
          const used = fs.mkdtempSync(path.join(root, 't'));
          try {
            applyTar(sys, used, archive, { whiteouts: 'plain' }, piece + 1);
          } catch (error) {
            assert.ok(typeof (error as { code?: unknown }).code === 'string', String(error));
          } finally {
            fs.rmSync(used, { recursive: true });
          }
        },
      ),
      { numRuns: 500 },
    );
  }),
);

function fixChecksum(archive: Buffer, at: number): void {
  archive.fill(0x20, at + 148, at + 156);
  let sum = 0;
  for (let i = at; i < at + 512; i++) sum += archive[i] ?? 0;
  archive.write(`${sum.toString(8).padStart(6, '0')}\0 `, at + 148, 'latin1');
}
