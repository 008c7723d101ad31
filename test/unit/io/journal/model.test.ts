// The journaled store against a model: random changes, failed and torn writes, checkpoints that fail, crashes at every
// point. Whatever was acknowledged is there afterwards, and of everything else the whole or nothing.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { JournalStore } from '../../../../src/io/journal/store.ts';
import { FakeCheckpointer, FakeDevice, FakeTables, id, turns } from './fake.ts';

type Content = ReadonlyMap<string, string>;

interface Change {
  key: number;
  /** Length of the value; 0 removes. */
  length: number;
}

type Step =
  | { kind: 'change'; changes: Change[] }
  | { kind: 'end'; fails: boolean; blocks: number }
  | { kind: 'turn' }
  | { kind: 'ask' }
  | { kind: 'checkpoint'; fails: boolean }
  | { kind: 'crash'; blocks: number; checkpointed: boolean };

const change: fc.Arbitrary<Change> = fc.record({
  key: fc.nat(12),
  length: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 40 }), fc.integer({ min: 3000, max: 9000 })),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant('change' as const),
      changes: fc.array(change, { minLength: 1, maxLength: 4 }),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('end' as const),
      fails: fc.constant(false),
      blocks: fc.constant(0),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('end' as const),
      fails: fc.constant(true),
      blocks: fc.nat(255),
    }),
  },
  { weight: 4, arbitrary: fc.constant({ kind: 'turn' as const }) },
  { weight: 2, arbitrary: fc.constant({ kind: 'ask' as const }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('checkpoint' as const), fails: fc.boolean() }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('crash' as const),
      blocks: fc.nat(255),
      checkpointed: fc.boolean(),
    }),
  },
);

const reaches = (mask: number) => (block: number) => (mask & (1 << (block & 7))) !== 0;
const tables = ['a', 'b'];
const tableOf = (key: number) => tables[key % 2] as string;
/** Every third is too long for the tables; the long ones differ at their ends, which no head shows. */
const keyOf = (key: number) => (key % 3 === 0 ? `k${'x'.repeat(2000 + key)}` : `k${key}`);

class World {
  readonly tables = new FakeTables();
  readonly devices = [new FakeDevice('one', 4), new FakeDevice('two', 4)];
  readonly atOnce: boolean;
  checkpointer = new FakeCheckpointer(this.tables, this.devices);
  store: JournalStore<string>;
  /** What each commit would leave, by its number; entry 0 is what the store had when it was opened. */
  contents: Content[] = [new Map()];
  /** The last commit that was acknowledged. */
  acknowledged = 0;
  /** Refused while nobody can tell whether it is stored. */
  perhaps: Content[] = [];
  serial = 0;

  constructor(atOnce: boolean) {
    this.atOnce = atOnce;
    this.store = this.open();
  }

  get undoFailed(): boolean {
    return this.devices.some(({ undoFailed }) => undoFailed);
  }

  open(): JournalStore<string> {
    const [one, two] = this.devices as [FakeDevice, FakeDevice];
    return new JournalStore<string>({
      base: this.tables.base(),
      journal: { id, devices: [one, two] },
      checkpointer: this.checkpointer,
      limits: { fileBytesMax: 8 * 4096, draftBytesMax: 20_000, checkpointAfterMs: 1e8, retryMs: 1 },
      pace: { atOnce: this.atOnce, wrote: () => {} },
    });
  }

  change(changes: Change[]): void {
    if (this.store.busy() !== undefined) return;
    const next = new Map(this.contents.at(-1) as Content);
    const writes = changes.map(({ key, length }) => {
      const name = `${tableOf(key)}/${keyOf(key)}`;
      const value = `${++this.serial}:`.padEnd(length, 'x');
      if (length === 0) next.delete(name);
      else next.set(name, value);
      return {
        table: tableOf(key),
        key: Buffer.from(keyOf(key)),
        value: length === 0 ? undefined : Buffer.from(value),
      };
    });
    try {
      this.store.apply(writes);
    } catch (error) {
      assert.equal((error as { code: string }).code, 'unavailable');
      return;
    }
    const number = this.contents.push(next) - 1;
    const { contents } = this;
    assert.deepEqual(this.shown(this.store.draft), next, 'checks see the newest state');
    this.store.commit((error) => {
      if (contents !== this.contents) return;
      if (error === undefined) {
        assert.equal(number, this.acknowledged + 1, 'commits are acknowledged in order');
        this.acknowledged = number;
        return;
      }
      // What was refused is gone, and all that followed it, unless the disk refuses even that.
      if (this.undoFailed) this.perhaps.push(next);
      this.contents = this.contents.slice(0, this.acknowledged + 1);
      assert.deepEqual(this.shown(this.store.draft), this.contents.at(-1));
    });
  }

  shown(txn: JournalStore<string>['draft']): Content {
    return new Map(
      tables.flatMap((table) =>
        [...txn.range(table, {})].map(({ key, value }) => {
          assert.deepEqual(txn.get(table, key), value);
          return [`${table}/${Buffer.from(key)}`, Buffer.from(value).toString()] as const;
        }),
      ),
    );
  }

  check(): void {
    const now = this.store.read((txn) => this.shown(txn));
    assert.deepEqual(now, this.contents[this.acknowledged], 'readers see what is durable, and no more');
  }

  async crash(blocks: number, checkpointed: boolean): Promise<void> {
    if (checkpointed) {
      this.checkpointer.pending?.go();
      await turns(1);
    }
    const possible = [...this.contents.slice(this.acknowledged), ...(this.undoFailed ? this.perhaps : [])];
    this.contents = [];
    this.perhaps = [];
    for (const device of this.devices) device.crash(reaches(blocks));
    this.checkpointer.pending?.fail(new Error('the power is gone'));
    await turns(1);
    this.devices.splice(
      0,
      2,
      ...this.devices.map((old) => {
        const device = new FakeDevice(old.name, 1);
        device.bytes = old.bytes;
        return device;
      }),
    );
    this.checkpointer = new FakeCheckpointer(this.tables, this.devices);
    this.store = this.open();
    const found = this.store.read((txn) => this.shown(txn));
    assert.ok(
      possible.some((content) => same(content, found)),
      `after a crash: ${[...found]} is none of ${possible.map((content) => `[${[...content]}]`)}`,
    );
    this.contents = [found];
    this.acknowledged = 0;
  }

  async run(one: Step): Promise<void> {
    if (one.kind === 'change') this.change(one.changes);
    else if (one.kind === 'turn') await turns(2);
    else if (one.kind === 'ask') this.store.checkpoint().catch(() => {});
    else if (one.kind === 'crash') await this.crash(one.blocks, one.checkpointed);
    else if (one.kind === 'checkpoint') {
      if (one.fails) this.checkpointer.pending?.fail(new Error('no luck'));
      else this.checkpointer.pending?.go();
      await turns(2);
    } else {
      const error = one.fails ? Object.assign(new Error('EIO'), { code: 'EIO' }) : null;
      for (const device of this.devices) device.end(error, one.fails ? reaches(one.blocks) : undefined);
    }
    this.check();
  }

  /** Everything goes well from now on. */
  async finish(): Promise<void> {
    this.checkpointer.atOnce = true;
    for (let i = 0; this.acknowledged < this.contents.length - 1; i++) {
      assert.ok(i < 1000, 'commits end when nothing fails');
      this.checkpointer.pending?.go();
      for (const device of this.devices) device.end();
      await new Promise((resolve) => setTimeout(resolve, i < 20 ? 0 : 2));
    }
    this.check();
  }
}

function same(a: Content, b: Content): boolean {
  return a.size === b.size && [...a].every(([key, value]) => b.get(key) === value);
}

for (const atOnce of [true, false]) {
  test(`nothing acknowledged is lost, written ${atOnce ? 'at once' : 'by the pool'}`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const world = new World(atOnce);
        for (const one of steps) await world.run(one);
        await world.finish();
      }),
      { numRuns: 200 },
    );
  });
}
