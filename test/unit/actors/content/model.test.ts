// Random histories of writers, aborts, deletions, cleanups and kills, held against a model of what must be true.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Writer } from '../../../../src/actors/content/protocol.ts';
import { codeOf } from '../../../../src/api/model/errors.ts';
import { type Digest, parseNamespace } from '../../../../src/api/model/ids.ts';
import { digestOfBytes } from '../../../suites/blob-store.ts';
import { type ContentHarness, startContent } from './harness.ts';

const namespace = parseNamespace('model');
const refs = ['a', 'b'] as const;
type Ref = (typeof refs)[number];

type Step =
  | { readonly op: 'open'; readonly ref: Ref }
  | { readonly op: 'close' | 'truncate' | 'commit' | 'abort'; readonly ref: Ref }
  | { readonly op: 'append'; readonly ref: Ref; readonly fill: number; readonly length: number }
  | { readonly op: 'delete' }
  | { readonly op: 'cleanup' }
  | { readonly op: 'kill' };

const ref = fc.constantFrom(...refs);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ op: fc.constant('open' as const), ref }) },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('append' as const),
      ref,
      fill: fc.integer({ min: 0, max: 1 }),
      length: fc.constantFrom(0, 1, 5, 16_000, 200_000),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ op: fc.constantFrom('close', 'truncate', 'commit', 'commit', 'abort'), ref }),
  },
  {
    weight: 3,
    arbitrary: fc.constantFrom<Step>({ op: 'delete' }, { op: 'cleanup' }, { op: 'kill' }),
  },
);

/** What is true of one ref: bytes so far, and the writer that holds it. */
interface Ingest {
  data: Buffer;
  writer: Writer | undefined;
}

class Model {
  readonly h: ContentHarness;
  readonly ingests = new Map<Ref, Ingest>();
  readonly content = new Map<Digest, Buffer>();

  constructor(h: ContentHarness) {
    this.h = h;
  }

  async run(next: Step): Promise<void> {
    if (next.op === 'delete') return await this.#delete();
    if (next.op === 'cleanup') return void (await this.h.content.cleanup());
    if (next.op === 'kill') return await this.#kill();
    const ingest = this.ingests.get(next.ref);
    const writer = ingest?.writer;
    if (next.op === 'open') return await this.#open(next.ref, ingest);
    if (next.op === 'abort') return await this.#abort(next.ref, ingest);
    if (ingest === undefined || writer === undefined) return;
    if (next.op === 'append') {
      const data = Buffer.alloc(next.length, next.fill);
      ingest.data = Buffer.concat([ingest.data, data]);
      // A copy, since large buffers are handed over.
      await writer.append(Buffer.from(data));
    } else if (next.op === 'truncate') {
      ingest.data = Buffer.alloc(0);
      await writer.truncate();
    } else if (next.op === 'close') {
      ingest.writer = undefined;
      await writer.close();
    } else await this.#commit(next.ref, ingest, writer);
  }

  async #open(ref: Ref, ingest: Ingest | undefined): Promise<void> {
    const request = { namespace, ref, lease: undefined, total: 0, expected: undefined };
    const opening = this.h.content.openWriter(request);
    if (ingest?.writer !== undefined) return await refused(opening, 'unavailable');
    this.ingests.set(ref, { data: ingest?.data ?? Buffer.alloc(0), writer: await opening });
  }

  async #abort(ref: Ref, ingest: Ingest | undefined): Promise<void> {
    const aborting = this.h.content.abort(namespace, ref, undefined);
    if (ingest === undefined) return await refused(aborting, 'not-found');
    this.ingests.delete(ref);
    await aborting;
    await ingest.writer?.close();
  }

  async #commit(ref: Ref, { data }: Ingest, writer: Writer): Promise<void> {
    const digest = digestOfBytes(data);
    const committing = writer.commit({ total: data.length, expected: digest, labels: new Map() });
    this.ingests.delete(ref);
    if (this.content.has(digest)) await refused(committing, 'already-exists');
    else assert.deepEqual(await committing, { digest, sizeBytes: data.length });
    this.content.set(digest, data);
    await writer.close();
  }

  async #delete(): Promise<void> {
    for (const digest of this.content.keys()) {
      this.content.delete(digest);
      await this.h.metadata.metadata.call('content.delete', { namespace, lease: undefined, digest });
      return;
    }
  }

  /** Everything that was answered is there afterwards, except for what was not recorded yet. */
  async #kill(): Promise<void> {
    await this.h.content.recordOpen(namespace);
    for (const [name, { writer, data }] of this.ingests) {
      if (writer !== undefined && data.length <= 16_384) await writer.close();
      this.ingests.set(name, { data, writer: undefined });
    }
    await this.h.reopen();
  }

  check(): void {
    for (const ref of refs) {
      const ingest = this.ingests.get(ref);
      assert.equal(this.h.content.status(namespace, ref)?.offset, ingest?.data.length);
      if (ingest?.writer !== undefined) assert.equal(ingest.writer.digest(), digestOfBytes(ingest.data));
    }
    const recorded = this.h.metadata.reader.contentPage(namespace, '', 100);
    assert.equal(recorded.length, this.content.size);
    for (const [digest, data] of this.content) {
      assert.ok(readFileSync(this.h.content.blobPath(namespace, digest)).equals(data));
    }
  }

  /** Once nothing is open and a cleanup has run, the disk holds what is recorded and nothing else. */
  async checkDisk(): Promise<void> {
    for (const name of [...this.ingests.keys()]) await this.#abort(name, this.ingests.get(name));
    await this.h.content.cleanup();
    const blobs = readdirSync(join(this.h.directory, 'blobs', 'sha256'));
    assert.deepEqual(blobs.sort(), [...this.content.keys()].map((digest) => digest.slice(7)).sort());
    assert.deepEqual(readdirSync(join(this.h.directory, 'ingest')), []);
    assert.deepEqual(readdirSync(join(this.h.directory, 'trash')), []);
    assert.deepEqual(this.h.errors, []);
  }
}

async function refused(work: Promise<unknown>, code: string): Promise<void> {
  await assert.rejects(work, (error) => codeOf(error) === code);
}

test('random histories end as the model says', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
      await using h = await startContent();
      const model = new Model(h);
      for (const next of steps) {
        await model.run(next);
        model.check();
      }
      await model.checkDisk();
    }),
    { numRuns: 60, interruptAfterTimeLimit: 60_000 },
  );
});
