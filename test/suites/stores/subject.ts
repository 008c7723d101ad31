// What the contract suites of the stores run against: one daemon, reached as any client would, over gRPC alone.
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { type ServiceError, status } from '@grpc/grpc-js';
import { Any } from '../../../src/api/proto/gen/google/protobuf/any.ts';
import type { Timestamp } from '../../../src/api/proto/gen/google/protobuf/timestamp.ts';
import { EventsDefinition } from '../../../src/api/proto/gen/services/events/v1/events.ts';
import type { Envelope } from '../../../src/api/proto/gen/types/event.ts';
import type { CallOptions, GrpcClient } from '../../fixtures/grpc.ts';
import { until } from '../../fixtures/process.ts';

/** Behaviour that came to containerd after 1.6, which Debian has: tests of it are skipped there, and say so. */
export type Since = '1.7' | '2.0' | '2.1' | '2.2' | '2.3';

export interface StoreSubject {
  readonly client: GrpcClient;
  /** Begins the names of all namespaces, so that subjects and runs do not meet. */
  readonly prefix: string;
  /** Root directory of the daemon, on this machine. */
  readonly root: string;
  /** What containerd of this version does is to be expected; Troupe does what the newest does. */
  readonly version: '1.6' | '2.3';
  /** A snapshotter that works on this machine. */
  readonly snapshotter: string;
}

/** One test of a suite: a namespace of its own and calls in it. */
export interface Case {
  readonly subject: StoreSubject;
  readonly client: GrpcClient;
  readonly ns: string;
  /** Options for calls in the namespace of the test. */
  readonly at: CallOptions;
  readonly isOld: boolean;
}

let counter = 0;

export function newNamespace({ prefix }: StoreSubject): string {
  return `${prefix}-${(counter++).toString(36)}`;
}

/** Runs tests one after another against one subject. */
export class Suite {
  readonly #context: TestContext;
  readonly #subject: StoreSubject;

  constructor(context: TestContext, subject: StoreSubject) {
    this.#context = context;
    this.#subject = subject;
  }

  async test(
    name: string,
    run: (given: Case) => Promise<void>,
    options: { since?: Since; skip?: string } = {},
  ): Promise<void> {
    const isOld = this.#subject.version === '1.6';
    const missing =
      options.since !== undefined && isOld ? `containerd ${options.since} has it, 1.6 has not` : undefined;
    await this.#context.test(name, { skip: missing ?? (options.skip || false) }, async () => {
      const ns = newNamespace(this.#subject);
      await run({ subject: this.#subject, client: this.#subject.client, ns, at: { namespace: ns }, isOld });
    });
  }
}

export type Code = keyof typeof status;

/** The call must fail with this code; its message must match where one is given. */
export async function refused(call: Promise<unknown>, code: Code, message?: RegExp): Promise<string> {
  const error = await call.then(
    () => assert.fail(`expected ${code}, but the call succeeded`),
    (reason: ServiceError) => reason,
  );
  assert.equal(status[error.code], code, error.details ?? String(error));
  if (message !== undefined) assert.match(error.details, message);
  return error.details;
}

export function nsOf(time: Timestamp | undefined): bigint {
  assert.ok(time !== undefined, 'a timestamp is missing');
  return time.seconds * 1_000_000_000n + BigInt(time.nanos);
}

/** A timestamp of about now, by the clock of this machine. */
export function isRecent(time: Timestamp | undefined): void {
  const ageMs = Date.now() - Number(nsOf(time) / 1_000_000n);
  assert.ok(Math.abs(ageMs) < 600_000, `a timestamp is ${ageMs} ms old`);
}

export function labels(entries: Record<string, string> = {}): Map<string, string> {
  return new Map(Object.entries(entries));
}

export function plain(map: ReadonlyMap<string, string>): Record<string, string> {
  return Object.fromEntries([...map].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** A pair of exactly `bytes` bytes, key and value together. */
export function longLabel(bytes: number): { key: string; value: string } {
  // Two bytes of UTF-8 a character: who counts characters is wrong by half.
  const key = 'é'.repeat(100);
  return { key, value: 'x'.repeat(bytes - 200) };
}

export const anyOf = (text: string, typeUrl = 'example.com/type') =>
  Any.create({ typeUrl, value: Buffer.from(text) });

const probeTopic = '/contract/probe';

/**
 * The events of one namespace that `script` causes, in order. A subscriber is not told that it is registered, so probes
 * are published until one arrives, and one more marks the end.
 */
export async function eventsOf({ client, ns }: Case, script: () => Promise<unknown>): Promise<Envelope[]> {
  const stream = client.follow(EventsDefinition, 'subscribe', { filters: [`namespace==${ns}`] });
  const probe = (value: string) =>
    client.call(EventsDefinition, 'publish', { topic: probeTopic, event: anyOf(value) }, { namespace: ns });
  const heard = (value: string) =>
    stream.messages.some(
      ({ topic, event }) => topic === probeTopic && Buffer.from(event?.value ?? []).toString() === value,
    );
  try {
    let number = 0;
    await until('the subscriber is registered', async () => {
      await probe(`begin ${number++}`);
      return stream.messages.length > 0 ? true : undefined;
    });
    await script();
    await probe('end');
    await until('the events have arrived', () => (heard('end') ? true : undefined));
    return stream.messages.filter(({ topic }) => topic !== probeTopic);
  } finally {
    stream.cancel();
  }
}

/** Topic, type and payload of each event, the payload decoded. */
export function decoded(
  events: readonly Envelope[],
  types: Readonly<Record<string, { decode(bytes: Uint8Array): object }>>,
): [string, string, object][] {
  return events.map(({ topic, event }) => {
    const typeUrl = event?.typeUrl ?? '';
    const type = types[typeUrl];
    assert.ok(type !== undefined, `an event of type "${typeUrl}"`);
    const { _unknownFields, ...message } = type.decode(event!.value) as Record<string, unknown>;
    return [topic, typeUrl, message];
  });
}
