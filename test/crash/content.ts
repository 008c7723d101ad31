// The random operations of a crash trial on content: writes of every kind, labels, deletion.
import { Metadata, type ServiceError } from '@grpc/grpc-js';
import {
  ContentDefinition,
  WriteAction,
  WriteContentRequest,
  WriteContentResponse,
} from '../../src/api/proto/gen/services/content/v1/content.ts';
import { leased, randomLabels, randomLease } from './choices.ts';
import { type Data, type Key, keyOf, labelsText, partsOf } from './model.ts';
import type { Payload } from './payloads.ts';
import { contentData } from './records.ts';
import { namespaces, type Outcome, type World } from './world.ts';

type Message = Partial<Record<keyof WriteContentRequest, unknown>>;

const writeDeadlineMs = 30_000;

/** One write stream: a message is sent when the one before is answered. */
class WriteStream {
  readonly #stream;
  #waiting: PromiseWithResolvers<WriteContentResponse> | undefined;
  #error: ServiceError | undefined;

  constructor(world: World, namespace: string, lease: string | undefined) {
    const metadata = new Metadata();
    metadata.set('containerd-namespace', namespace);
    if (lease !== undefined) metadata.set('containerd-lease', lease);
    this.#stream = world.calls.client.makeBidiStreamRequest(
      `/${ContentDefinition.fullName}/Write`,
      (request: WriteContentRequest) => Buffer.from(WriteContentRequest.encode(request).finish()),
      (bytes: Buffer) => WriteContentResponse.decode(bytes),
      metadata,
      { deadline: Date.now() + writeDeadlineMs },
    );
    this.#stream.on('data', (response: WriteContentResponse) => {
      this.#waiting?.resolve(response);
      this.#waiting = undefined;
    });
    this.#stream.on('error', (error: ServiceError) => {
      this.#error = error;
      this.#waiting?.reject(error);
      this.#waiting = undefined;
    });
  }

  send(message: Message): Promise<WriteContentResponse> {
    if (this.#error !== undefined) return Promise.reject(this.#error);
    this.#waiting = Promise.withResolvers();
    this.#stream.write(WriteContentRequest.fromPartial(message as never));
    return this.#waiting.promise;
  }

  end(): void {
    this.#stream.end();
  }

  cancel(): void {
    this.#stream.cancel();
  }
}

const messageBytesMax = 100_000;

/** What a write that commits `payload` may be answered, and what that means. */
function commitOutcomes(
  world: World,
  key: Key,
  payload: Payload,
  labels: Map<string, string>,
  lease: string | undefined,
): Outcome[] {
  const { namespace } = partsOf(key);
  const stored = world.model.get(key);
  const join = leased(world, namespace, lease, `content/${payload.digest}`);
  const data: Data = { labels: labelsText(labels), size: String(payload.data.length), stamp: '*' };
  const created = { code: 'OK', changes: [[key, data] as const, ...join] };
  const existed = { code: 'ALREADY_EXISTS', changes: join };
  if (stored === undefined) return [created];
  return world.model.isAtRisk(key) ? [created, existed] : [existed];
}

/** Cuts what is left of a payload into messages; the last one commits. */
function* messages(payload: Payload, offset: number, parts: number, last: Message): Generator<Message> {
  const left = payload.data.length - offset;
  const size = Math.min(messageBytesMax, Math.max(1, Math.ceil(left / parts)));
  let at = offset;
  while (payload.data.length - at > size) {
    yield { action: WriteAction.WRITE, offset: BigInt(at), data: payload.data.subarray(at, at + size) };
    at += size;
  }
  yield { ...last, action: WriteAction.COMMIT, offset: BigInt(at), data: payload.data.subarray(at) };
}

export async function writeContent(world: World): Promise<void> {
  const { random } = world;
  const resumable = [...world.ingests.keys()];
  if (resumable.length > 0 && random.chance(0.3)) return takeUp(world, random.pick(resumable));
  const namespace = random.pick(namespaces);
  const payload = random.pick(world.payloads);
  if (random.chance(0.15)) return writeBeginning(world, namespace, payload);
  if (random.chance(0.08)) return writeWrong(world, namespace, payload);
  await commitFrom(world, namespace, world.unique('ref-'), payload, undefined);
}

/** Writes a payload to its end and commits it; `resumeSentBytes` says that there may be a beginning. */
async function commitFrom(
  world: World,
  namespace: string,
  ref: string,
  payload: Payload,
  resumeSentBytes: number | undefined,
): Promise<void> {
  const { random } = world;
  const key = keyOf('content', namespace, payload.digest);
  const lease = randomLease(world, namespace);
  const write = lease === undefined ? [key] : [key, keyOf('lease', namespace, lease)];
  const ingest = `${namespace}|${ref}`;
  await world.withLocks({ write: [...write, `ingest|${ingest}`] }, async () => {
    if (lease !== undefined && world.model.get(keyOf('lease', namespace, lease)) === undefined) return;
    if (resumeSentBytes !== undefined && !world.ingests.has(ingest)) return;
    const labels = randomLabels(world, namespace);
    // Without the expected digest the blob would be named by sha256.
    const isNamed = payload.digest.startsWith('sha512:') || random.chance(0.7);
    const expected = isNamed ? payload.digest : '';
    const outcomes = commitOutcomes(world, key, payload, labels, lease);
    // The stream that wrote the beginning may not be over yet.
    if (resumeSentBytes !== undefined) outcomes.push({ code: 'UNAVAILABLE' });
    world.ingests.set(ingest, { payload, sentBytes: payload.data.length });
    const parts = random.chance(0.5) ? 1 : random.int(2, 5);
    const total = BigInt(payload.data.length);
    const text = `write ${key} as ${ref} in ${parts}, lease ${lease}, resumed ${resumeSentBytes}`;
    const code = await world.attempt(text, outcomes, async () => {
      const stream = new WriteStream(world, namespace, lease);
      try {
        let offset = 0;
        if (resumeSentBytes !== undefined) {
          const begun = await stream.send({ action: WriteAction.STAT, ref, total, expected });
          offset = Number(begun.offset);
          const limit = expected === '' ? resumeSentBytes : payload.data.length;
          if (offset > limit) {
            throw world.model.violation(key, `ingest ${ref} has ${offset} bytes, ${limit} were sent`);
          }
        }
        for (const message of messages(payload, offset, parts, { total, expected, labels })) {
          const answer = await stream.send({ ref, total, expected, ...message });
          if (message.action === WriteAction.COMMIT && answer.digest !== payload.digest) {
            throw world.model.violation(key, `committed as ${answer.digest}`);
          }
        }
      } finally {
        stream.end();
      }
    });
    if (code === 'OK') world.ingests.delete(ingest);
  });
}

/** A writer that leaves in the middle. */
async function writeBeginning(world: World, namespace: string, payload: Payload): Promise<void> {
  const { random } = world;
  const ref = world.unique('ref-');
  const ingest = `${namespace}|${ref}`;
  await world.withLocks({ write: [`ingest|${ingest}`] }, async () => {
    world.ingests.set(ingest, { payload, sentBytes: payload.data.length });
    await world.attempt(`begin ${ingest}`, [{ code: 'OK' }], async () => {
      const stream = new WriteStream(world, namespace, undefined);
      try {
        for (const message of messages(payload, 0, random.int(2, 4), {})) {
          if (message.action === WriteAction.COMMIT) break;
          const { offset } = await stream.send({ ref, total: BigInt(payload.data.length), ...message });
          const sent = Number(message.offset) + (message.data as Buffer).length;
          if (Number(offset) !== sent) throw new Error(`${ref}: ${sent} bytes were sent, ${offset} taken`);
        }
      } finally {
        if (random.chance(0.5)) stream.cancel();
        else stream.end();
      }
    });
  });
}

/** Goes on with a beginning, or aborts it. */
async function takeUp(world: World, ingest: string): Promise<void> {
  const note = world.ingests.get(ingest);
  if (note === undefined) return;
  const [namespace = '', ref = ''] = ingest.split('|');
  if (world.random.chance(0.6)) return commitFrom(world, namespace, ref, note.payload, note.sentBytes);
  await world.withLocks({ write: [`ingest|${ingest}`] }, async () => {
    const outcomes = [{ code: 'OK' }, { code: 'NOT_FOUND' }];
    const code = await world.attempt(`abort ${ingest}`, outcomes, () =>
      world.calls.call(ContentDefinition, 'abort', { ref } as never, { namespace }),
    );
    if (outcomes.some((outcome) => outcome.code === code)) world.ingests.delete(ingest);
  });
}

/** A commit that must be refused: another digest, or another size, than the bytes have. */
async function writeWrong(world: World, namespace: string, payload: Payload): Promise<void> {
  const ref = world.unique('wrong-');
  const ingest = `${namespace}|${ref}`;
  const total = BigInt(payload.data.length + (world.random.chance(0.5) ? 1 : 0));
  const expected = total > payload.data.length ? '' : `sha256:${'1'.repeat(64)}`;
  await world.withLocks({ write: [`ingest|${ingest}`] }, async () => {
    world.ingests.set(ingest, { payload, sentBytes: payload.data.length });
    await world.attempt(`wrong ${ingest}`, [{ code: 'FAILED_PRECONDITION' }], async () => {
      const stream = new WriteStream(world, namespace, undefined);
      try {
        const { data } = payload;
        await stream.send({ action: WriteAction.COMMIT, ref, total, expected, offset: 0n, data });
      } finally {
        stream.end();
      }
    });
  });
}

function randomContent(world: World): Key | undefined {
  // What was pulled keeps the labels that it came with.
  const own = new Set(world.payloads.map(({ digest }) => digest));
  const keys = world.model
    .keys('content', world.random.pick(namespaces))
    .filter((key) => own.has(partsOf(key).id));
  return keys.length === 0 ? undefined : world.random.pick(keys);
}

/** Adds the answer that a collection was faster. */
function unlessCollected(world: World, key: Key, done: Outcome): Outcome[] {
  return world.model.isAtRisk(key) ? [done, { code: 'NOT_FOUND', changes: [[key, undefined]] }] : [done];
}

export async function updateContent(world: World): Promise<void> {
  const key = randomContent(world);
  if (key === undefined) return;
  const { namespace, id: digest } = partsOf(key);
  await world.withLocks({ write: [key] }, async () => {
    const stored = world.model.get(key);
    if (stored === undefined) return;
    const labels = randomLabels(world, namespace);
    const done: Outcome = {
      code: 'OK',
      changes: [[key, { ...stored, labels: labelsText(labels), stamp: '*' }]],
      learn: ({ info }: { info?: Parameters<typeof contentData>[0] | undefined }) =>
        info === undefined ? [] : [[key, contentData(info)]],
    };
    await world.attempt(`update ${key}`, unlessCollected(world, key, done), () =>
      world.calls.call(ContentDefinition, 'update', { info: { digest, labels } } as never, { namespace }),
    );
  });
}

export async function deleteContent(world: World): Promise<void> {
  const key = randomContent(world);
  if (key === undefined) return;
  const { namespace, id: digest } = partsOf(key);
  await world.withLocks({ write: [key] }, async () => {
    if (world.model.get(key) === undefined) return;
    const done = { code: 'OK', changes: [[key, undefined]] as const };
    await world.attempt(`delete ${key}`, unlessCollected(world, key, done), () =>
      world.calls.call(ContentDefinition, 'delete', { digest } as never, { namespace }),
    );
  });
}

/** Reads a blob; what was protected meanwhile must stay from now on. */
export async function touch(world: World): Promise<void> {
  const key = randomContent(world);
  if (key === undefined) return;
  const { namespace, id: digest } = partsOf(key);
  await world.withLocks({ write: [key] }, async () => {
    const stored = world.model.get(key);
    if (stored === undefined) return;
    const isProtected = world.model.protected().has(key);
    const code = await world.attempt(`read ${key}`, unlessCollected(world, key, { code: 'OK' }), async () => {
      const found = await world.calls.list(ContentDefinition, 'read', { digest } as never, { namespace });
      const data = Buffer.concat(found.map((message) => message.data));
      const payload = world.payloads.find((candidate) => candidate.digest === digest);
      if (payload === undefined || !payload.data.equals(data)) {
        throw world.model.violation(key, `reads ${data.length} bytes that are not its own`);
      }
    });
    if (code === 'OK' && isProtected) world.model.seen(key);
  });
}
