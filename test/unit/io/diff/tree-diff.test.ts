// What a difference holds, entry by entry.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { TarReader } from '../../../../src/io/archive/tar-reader.ts';
import { diffTrees } from '../../../../src/io/diff/tree-diff.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { scoped, sub } from '../archive/layers.ts';

const options = { skip: process.getuid?.() !== 0 && 'needs root' };
const sys = createSys();

interface Listed {
  name: string;
  type: string;
  link: string;
  mode: number;
  mtime: number;
}

function list(lower: string, upper: string, sourceDateEpochSeconds?: number): Listed[] {
  const listed: Listed[] = [];
  const reader = new TarReader({
    begin: (header) =>
      listed.push({
        name: header.name,
        type: header.type,
        link: header.linkName,
        mode: header.mode,
        mtime: header.mtimeSeconds,
      }),
    data: () => undefined,
    end: () => undefined,
  });
  const diff = diffTrees(sys, lower, upper, { sourceDateEpochSeconds, throwIfAborted: () => undefined });
  for (const chunk of diff) reader.push(chunk);
  reader.finish();
  return listed;
}

/** Two copies of the same tree. */
function pair(directory: string, fill: (root: string) => void): [string, string] {
  const lower = sub(directory, 'lower');
  const upper = sub(directory, 'upper');
  for (const root of [lower, upper]) {
    fill(root);
    for (const name of fs.readdirSync(root, { recursive: true }) as string[]) {
      fs.lutimesSync(path.join(root, name), 1000, 1000);
    }
  }
  return [lower, upper];
}

const names = (entries: Listed[]) =>
  entries.map(({ name, type, link }) => (type === 'hardlink' ? `${name} -> ${link}` : name));

test('order, parents once, one whiteout for a deleted tree, no sockets', options, () =>
  scoped(sys, async (directory) => {
    const [lower, upper] = pair(directory, (root) => {
      sub(root, 'a/sub/deep');
      sub(root, 'gone/deep');
      fs.writeFileSync(path.join(root, 'a.b'), '');
      fs.writeFileSync(path.join(root, 'a/same'), '');
      fs.writeFileSync(path.join(root, 'gone/deep/file'), '');
    });
    assert.deepEqual(list(lower, upper), []);
    fs.rmSync(path.join(upper, 'gone'), { recursive: true });
    fs.rmSync(path.join(upper, 'a/same'));
    fs.writeFileSync(path.join(upper, 'a/sub/deep/new'), 'x');
    fs.writeFileSync(path.join(upper, 'a/sub/deep/new2'), 'x');
    fs.chmodSync(path.join(upper, 'a.b'), 0o600);
    const server = net.createServer().listen(path.join(upper, 'socket'));
    await new Promise((resolve) => server.once('listening', resolve));
    const entries = list(lower, upper);
    server.close();
    assert.deepEqual(names(entries), [
      'a/',
      'a/.wh.same',
      'a/sub/',
      'a/sub/deep/',
      'a/sub/deep/new',
      'a/sub/deep/new2',
      'a.b',
      '.wh.gone',
    ]);
    const whiteout = entries.find(({ name }) => name === '.wh.gone');
    assert.deepEqual(whiteout, { name: '.wh.gone', type: 'file', link: '', mode: 0, mtime: 0 });
  }),
);

test('times without nanoseconds make the content decide', options, () =>
  scoped(sys, (directory) => {
    const [lower, upper] = pair(directory, (root) => {
      for (const name of ['content', 'nanos']) fs.writeFileSync(path.join(root, name), 'one');
      fs.symlinkSync('one', path.join(root, 'link'));
    });
    fs.writeFileSync(path.join(upper, 'content'), 'two');
    fs.utimesSync(path.join(upper, 'content'), 1000, 1000);
    fs.rmSync(path.join(upper, 'link'));
    fs.symlinkSync('two', path.join(upper, 'link'));
    fs.lutimesSync(path.join(upper, 'link'), 1000, 1000);
    sys.utimensat(-100, path.join(upper, 'nanos'), 1000, 5, 1000, 5, 0);
    assert.deepEqual(names(list(lower, upper)), ['content', 'link', 'nanos']);
  }),
);

test('directory to file and back; a replaced directory needs no whiteouts below', options, () =>
  scoped(sys, (directory) => {
    const [lower, upper] = pair(directory, (root) => {
      sub(root, 'd/below');
      fs.writeFileSync(path.join(root, 'f'), '');
    });
    fs.rmSync(path.join(upper, 'd'), { recursive: true });
    fs.writeFileSync(path.join(upper, 'd'), '');
    fs.rmSync(path.join(upper, 'f'));
    sub(upper, 'f/below');
    assert.deepEqual(names(list(lower, upper)), ['d', 'f/', 'f/below/']);
  }),
);

test('a new link brings its unchanged siblings along, wherever they stand', options, () =>
  scoped(sys, (directory) => {
    const [lower, upper] = pair(directory, (root) => {
      sub(root, 'a');
      fs.writeFileSync(path.join(root, 'a/first'), 'x');
      fs.linkSync(path.join(root, 'a/first'), path.join(root, 'z'));
    });
    fs.linkSync(path.join(upper, 'z'), path.join(upper, 'm'));
    assert.deepEqual(names(list(lower, upper)), ['m', 'a/', 'a/first -> m', 'z -> m']);
  }),
);

test('SOURCE_DATE_EPOCH cuts times that are later', options, () =>
  scoped(sys, (directory) => {
    const [lower, upper] = pair(directory, (root) => fs.writeFileSync(path.join(root, 'gone'), ''));
    fs.rmSync(path.join(upper, 'gone'));
    fs.writeFileSync(path.join(upper, 'new'), '');
    fs.writeFileSync(path.join(upper, 'old'), '');
    fs.utimesSync(path.join(upper, 'old'), 50, 50);
    assert.deepEqual(
      list(lower, upper, 100).map(({ name, mtime }) => [name, mtime]),
      [
        ['.wh.gone', 0],
        ['new', 100],
        ['old', 50],
      ],
    );
  }),
);
