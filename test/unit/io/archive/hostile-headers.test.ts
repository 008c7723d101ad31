// Headers that lie or overreach: sizes that cannot be, records without end, the same name again and again. Each is
// refused by name or does what it says within its limits; none takes memory or time that its bytes do not pay for.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodePax, type PaxRecord } from '../../../../src/io/archive/pax.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { applyTar, dir, file, link, scoped, snapshotOf, symlink, tarOf } from './layers.ts';

const options = { skip: process.getuid?.() !== 0 && 'needs root' };
const sys = createSys();
const refused = { code: 'invalid-argument' };

function fixChecksum(block: Buffer): Buffer {
  block.fill(0x20, 148, 156);
  const sum = block.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

/** A header block with fields overwritten, whatever sense they make. */
function header(name: string, flag: string, change: (block: Buffer) => void = () => undefined): Buffer {
  const block = Buffer.from(tarOf([file(name)]).subarray(0, 512));
  block.write(flag, 156, 'latin1');
  change(block);
  return fixChecksum(block);
}

function octal(value: number): string {
  return `${value.toString(8).padStart(11, '0')}\0`;
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)]);
}

/** An entry `f` behind a PAX header of these records. */
function withPax(records: PaxRecord[], content = ''): Buffer {
  const body = encodePax(records);
  const pax = header('pax', 'x', (block) => block.write(octal(body.length), 124, 'latin1'));
  return Buffer.concat([pax, padded(body), tarOf([file('f', content)])]);
}

test('sizes that cannot be are refused, and cost nothing', options, () =>
  scoped(sys, (root) => {
    const base256 = (bytes: number[]) => (block: Buffer) => void block.set(bytes, 124);
    const huge = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    const negative = Array.from({ length: 12 }, () => 0xff);
    for (const block of [
      header('f', '0', base256(huge)),
      header('f', '0', base256(negative)),
      header('f', '0', (target) => void target.write('99999999999\0', 124, 'latin1')),
      // An extended header that claims more than any is allowed.
      ...['x', 'g', 'L', 'K'].map((flag) =>
        header('f', flag, (target) => void target.write(octal(2 ** 30), 124, 'latin1')),
      ),
    ]) {
      assert.throws(() => applyTar(sys, root, Buffer.concat([block, Buffer.alloc(1024)])), refused);
    }
    // As much as fits the field, and then the archive ends: what came is there, the rest is missed.
    const cut = header('cut', '0', (target) => void target.write(octal(8 ** 11 - 1), 124, 'latin1'));
    assert.throws(() => applyTar(sys, root, Buffer.concat([cut, Buffer.alloc(2048)])), {
      ...refused,
      message: /truncated in "cut"/,
    });
    for (const size of ['-1', '1e9', '99999999999999999999', '0x10', '']) {
      const records = [{ key: 'size', value: size }];
      if (size === '') applyTar(sys, root, withPax(records));
      else assert.throws(() => applyTar(sys, root, withPax(records)), refused, size);
    }
  }),
);

test('sparse maps that lie are refused; holes take no room', options, () =>
  scoped(sys, (root) => {
    const sparse = (map: string, realSize: string, content = 'xxxx') =>
      withPax(
        [
          { key: 'GNU.sparse.major', value: '0' },
          { key: 'GNU.sparse.minor', value: '1' },
          { key: 'GNU.sparse.size', value: realSize },
          { key: 'GNU.sparse.map', value: map },
        ],
        content,
      );
    for (const [map, size] of [
      ['0,4', '-5'],
      ['0,4', '3'],
      ['4,2,2,2', '100'],
      ['0,99', '100'],
      ['0', '100'],
      ['a,b', '100'],
      ['0,-4', '100'],
      ['0,2', '100'],
      ['0,4', '99999999999999999999'],
    ] as const) {
      assert.throws(() => applyTar(sys, root, sparse(map, size)), refused, `${map} of ${size}`);
    }
    // The kernel's own limit; the file of the entry stays behind, as everything before an error does.
    assert.throws(() => applyTar(sys, root, sparse('0,4', String(2 ** 53 - 1))), { message: /"f"/ });
    applyTar(sys, root, sparse('1000000000,4', '2000000000'));
    const stat = fs.statSync(path.join(root, 'f'));
    assert.equal(stat.size, 2_000_000_000);
    assert.ok(stat.blocks * 512 < 1024 * 1024);
  }),
);

test('extended headers have limits, in size and in sense', options, () =>
  scoped(sys, (root) => {
    for (const body of [
      '5 a=b\n',
      '0 a=b\n',
      '999999 a=b\n',
      'x a=b\n',
      '6 a b\n',
      '6 =bb\n',
      '8 a\0=bb\n',
      '6 a=b',
    ]) {
      const bytes = Buffer.from(body, 'latin1');
      for (const flag of ['x', 'g']) {
        const pax = header('pax', flag, (block) => void block.write(octal(bytes.length), 124, 'latin1'));
        const archive = Buffer.concat([pax, padded(bytes), tarOf([file('f')])]);
        assert.throws(() => applyTar(sys, root, archive), refused, JSON.stringify(body));
      }
    }
    // A header of just less than the limit is read, with as many attributes as it holds.
    const records = Array.from({ length: 200 }, (_, i) => ({
      key: `SCHILY.xattr.user.n${i}`,
      value: `${i}`,
    }));
    assert.throws(
      () => applyTar(sys, root, withPax([...records, { key: 'comment', value: 'c'.repeat(1 << 20) }])),
      refused,
    );
    const large = { key: 'SCHILY.xattr.user.large', value: 'v'.repeat(70_000) };
    assert.throws(() => applyTar(sys, root, withPax([large])), { message: /entry "f"/ });
    const odd = { key: 'SCHILY.xattr.nonsense', value: 'v' };
    applyTar(sys, root, withPax([odd]));
    // A header that belongs to nothing.
    const body = encodePax([{ key: 'path', value: 'x' }]);
    const pax = header('pax', 'x', (block) => void block.write(octal(body.length), 124, 'latin1'));
    assert.throws(() => applyTar(sys, root, Buffer.concat([pax, padded(body)])), refused);
  }),
);

test('names that come again replace what they named before, in every combination', options, () =>
  scoped(sys, (root) => {
    const kinds = [
      file('n', 'one', { mode: 0o4755 }),
      file('n', 'two'),
      dir('n'),
      symlink('n', '/etc'),
      { type: 'fifo' as const, name: 'n' },
      link('n', 'other'),
      { type: 'character' as const, name: 'n', devMajor: 1, devMinor: 3 },
    ];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...kinds), { minLength: 1, maxLength: 6 }), (entries) => {
        const used = fs.mkdtempSync(path.join(root, 't'));
        const alone = fs.mkdtempSync(path.join(root, 'a'));
        const other = file('other', 'linked');
        applyTar(sys, used, tarOf([other, ...entries]));
        const last = entries.at(-1);
        if (last !== undefined) applyTar(sys, alone, tarOf([other, last]));
        // The link count of what was replaced goes back, too.
        assert.deepEqual(snapshotOf(sys, used), snapshotOf(sys, alone));
        for (const directory of [used, alone]) fs.rmSync(directory, { recursive: true });
      }),
      { numRuns: 150 },
    );
  }),
);

test(
  'random headers with honest checksums are refused with a code or applied, and never escape',
  options,
  () =>
    scoped(sys, (directory) => {
      const root = path.join(directory, 'in/side');
      fs.mkdirSync(root, { recursive: true });
      const octalField = fc.bigInt({ min: 0n, max: 8n ** 11n }).map((n) => n.toString(8).padStart(11, '0'));
      const hostile = fc.constantFrom(
        '../../x',
        '/x',
        '.',
        '..',
        'a/../../..',
        'l/x',
        'l',
        'd',
        '.wh.l',
        '.wh..wh..opq',
      );
      const block = fc
        .record({
          flag: fc.constantFrom(
            '0',
            '1',
            '2',
            '3',
            '4',
            '5',
            '6',
            '7',
            'x',
            'g',
            'L',
            'K',
            'S',
            'V',
            'M',
            '\0',
            'A',
          ),
          name: hostile,
          linkName: hostile,
          size: fc.oneof(
            { weight: 3, arbitrary: fc.constantFrom('0', '5', '1000') },
            { weight: 1, arbitrary: octalField },
          ),
          mode: fc.constantFrom('777', '4755', '1777', 'zzz'),
          body: fc.constantFrom('', 'hello', '11 path=l/x\n', '12 path=/etc\n', '19 linkpath=../../x\n'),
          noise: fc.array(fc.record({ at: fc.nat(511), byte: fc.nat(255) }), { maxLength: 2 }),
        })
        .map(({ flag, name, linkName, size, mode, body, noise }) =>
          Buffer.concat([
            header(name, flag, (target) => {
              target.fill(0, 124, 136);
              target.write(body === '' ? size : body.length.toString(8), 124, 'latin1');
              target.write(mode, 100, 'latin1');
              target.write(linkName, 157, 'latin1');
              for (const { at, byte } of noise) target[at] = byte;
            }),
            padded(Buffer.from(body)),
          ]),
        );
      fc.assert(
        fc.property(
          fc.array(block, { maxLength: 10 }),
          fc.integer({ min: 1, max: 2000 }),
          (blocks, piece) => {
            const used = fs.mkdtempSync(path.join(root, 't'));
            try {
              applyTar(sys, used, Buffer.concat(blocks), { whiteouts: 'plain' }, piece);
            } catch (error) {
              assert.ok(typeof (error as { code?: unknown }).code === 'string', String(error));
            }
            fs.rmSync(used, { recursive: true });
            assert.deepEqual(fs.readdirSync(root), []);
            assert.deepEqual(fs.readdirSync(path.dirname(root)), ['side']);
          },
        ),
        { numRuns: 600 },
      );
    }),
);
