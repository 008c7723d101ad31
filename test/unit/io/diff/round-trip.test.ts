// Property: applying the difference of two trees to the first gives the second.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { diffTrees } from '../../../../src/io/diff/tree-diff.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { applyTar, type Entry, scoped, snapshotOf, sub, tarOf } from '../archive/layers.ts';

const options = { skip: process.getuid?.() !== 0 && 'needs root' };
const sys = createSys();

type Node =
  | { kind: 'file'; content: string; mode: number; mtimeSeconds: number; uid: number; capability: boolean }
  | { kind: 'symlink'; target: string; mtimeSeconds: number }
  | { kind: 'link'; to: number }
  | { kind: 'fifo'; mode: number }
  | { kind: 'device'; minor: number }
  | { kind: 'directory'; mode: number; uid: number; children: [string, Node][] };

const { tree } = fc.letrec<{ tree: [string, Node][]; node: Node }>((tie) => ({
  tree: fc.uniqueArray(
    fc.tuple(fc.constantFrom('a', 'a.b', 'a-b', 'b', 'B', 'ü', '.wh', 'n'.repeat(120)), tie('node')),
    { maxLength: 5, selector: ([name]) => name },
  ),
  node: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    fc.record({
      kind: fc.constant('file' as const),
      content: fc.constantFrom('', 'one', 'two', 'x'.repeat(600)),
      mode: fc.constantFrom(0o644, 0o4755),
      mtimeSeconds: fc.constantFrom(1, 1_000_000_000),
      uid: fc.constantFrom(0, 3_000_000),
      capability: fc.boolean(),
    }),
    fc.record({
      kind: fc.constant('directory' as const),
      mode: fc.constantFrom(0o755, 0o1700),
      uid: fc.constantFrom(0, 5),
      children: tie('tree'),
    }),
    fc.record({
      kind: fc.constant('symlink' as const),
      target: fc.constantFrom('a', '/a', 't'.repeat(150)),
      mtimeSeconds: fc.constantFrom(1, 2),
    }),
    fc.record({ kind: fc.constant('link' as const), to: fc.nat(20) }),
    fc.record({ kind: fc.constant('fifo' as const), mode: fc.constantFrom(0o600, 0o644) }),
    fc.record({ kind: fc.constant('device' as const), minor: fc.constantFrom(3, 5) }),
  ),
}));

const capability = Buffer.from('0100000200040000000000000000000000000000', 'hex');

function entriesOf(nodes: [string, Node][]): Entry[] {
  const entries: Entry[] = [];
  const files: Entry[] = [];
  const visit = (children: [string, Node][], prefix: string): void => {
    for (const [base, node] of children) {
      const name = prefix + base;
      switch (node.kind) {
        case 'file': {
          const { kind: _, capability: capable, ...rest } = node;
          const xattrs = capable ? { xattrs: [['security.capability', capability] as const] } : {};
          const entry: Entry = { type: 'file', name, ...rest, ...xattrs };
          entries.push(entry);
          files.push(entry);
          break;
        }
        case 'directory':
          entries.push({ type: 'directory', name: `${name}/`, mode: node.mode, uid: node.uid });
          visit(node.children, `${name}/`);
          break;
        case 'symlink':
          entries.push({ type: 'symlink', name, linkName: node.target, mtimeSeconds: node.mtimeSeconds });
          break;
        case 'link': {
          const target = files[node.to % Math.max(files.length, 1)];
          if (target === undefined) break;
          const { content: _, ...attributes } = target;
          entries.push({ ...attributes, type: 'hardlink', name, linkName: target.name });
          break;
        }
        case 'fifo':
          entries.push({ type: 'fifo', name, mode: node.mode });
          break;
        case 'device':
          entries.push({ type: 'character', name, mode: 0o666, devMajor: 1, devMinor: node.minor });
          break;
      }
    }
  };
  visit(nodes, '');
  return entries;
}

function layerBetween(lower: string, upper: string): Buffer {
  return Buffer.concat([...diffTrees(sys, lower, upper, { throwIfAborted: () => undefined })]);
}

/** Links between unchanged names are not seen by a difference, nor are times of unchanged directories. */
function comparable(directory: string): unknown {
  return Object.entries(snapshotOf(sys, directory) as Record<string, Record<string, unknown>>).map(
    ([name, { group: _, nlink: __, mtime, ...rest }]) => [
      name,
      rest,
      String(rest['mode']).startsWith('4') ? '' : mtime,
    ],
  );
}

test('apply(diff(a, b)) on a gives b, in one directory and through an overlay upper', options, () =>
  scoped(sys, (directory) => {
    let round = 0;
    fc.assert(
      fc.property(tree, tree, (before, after) => {
        const base = sub(directory, `${round++}`);
        const [a, b, upper] = ['a', 'b', 'upper'].map((name) => sub(base, name)) as [string, string, string];
        applyTar(sys, a, tarOf(entriesOf(before)));
        applyTar(sys, b, tarOf(entriesOf(after)));
        const layer = layerBetween(a, b);
        assert.deepEqual(layer, layerBetween(a, b));
        applyTar(sys, upper, layer, { whiteouts: 'overlay', lowerDirectories: [a] });
        applyTar(sys, a, layer, { whiteouts: 'plain' }, 777);
        assert.deepEqual(comparable(a), comparable(b));
        assert.equal(layerBetween(a, b).length, 1024);
        fs.rmSync(base, { recursive: true });
      }),
      { numRuns: 120 },
    );
  }),
);

test('a whole tree against nothing keeps its hard links and is readable by tar', options, () =>
  scoped(sys, (directory) => {
    const [empty, full, copy] = ['empty', 'full', 'copy'].map((name) => sub(directory, name)) as [
      string,
      string,
      string,
    ];
    const long = `${'d'.repeat(90)}/${'e'.repeat(90)}/${'f'.repeat(200)}`;
    const entries: Entry[] = [
      { type: 'file', name: long, content: 'deep', uid: 4_000_000 },
      { type: 'hardlink', name: 'link', linkName: long, uid: 4_000_000 },
      { type: 'file', name: 'grüße', content: 'x'.repeat(300_000) },
      { type: 'symlink', name: 's', linkName: 'ü'.repeat(100) },
    ];
    applyTar(sys, full, tarOf(entries));
    fs.writeFileSync(path.join(directory, 'layer.tar'), layerBetween(empty, full));
    execFileSync('tar', ['-C', copy, '-xpf', path.join(directory, 'layer.tar')]);
    assert.deepEqual(snapshotOf(sys, copy, false), snapshotOf(sys, full, false));
  }),
);
