// Bytes in windows: whatever the pieces and the grants, all bytes arrive in order, and nobody sends more than he may.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  dataBytesMax,
  type MessageStream,
  packAny,
  receiveBytes,
  sendBytes,
  unpackAny,
} from '../../../../src/api/model/binary-stream.ts';
import type { Any } from '../../../../src/api/proto/gen/google/protobuf/any.ts';
import { Data, WindowUpdate } from '../../../../src/api/proto/gen/types/transfer/streaming.ts';
import { collect, failure } from '../../../fixtures/memory-content.ts';

/** One direction: messages, and the end of them. */
function pipe() {
  const queue: (Any | undefined)[] = [];
  let wake: (() => void) | undefined;
  return {
    put(message: Any | undefined): void {
      queue.push(message);
      wake?.();
    },
    async take(): Promise<Any | undefined> {
      while (queue.length === 0) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      return queue.shift();
    },
  };
}

function pair(onSend: (message: Any) => void = () => {}) {
  const there = pipe();
  const back = pipe();
  const sender: MessageStream & { end(): void } = {
    async send(message) {
      onSend(message);
      there.put(message);
    },
    receive: () => back.take(),
    end: () => there.put(undefined),
  };
  const receiver: MessageStream & { end(): void } = {
    send: async (message) => back.put(message),
    receive: () => there.take(),
    end: () => back.put(undefined),
  };
  return { sender, receiver };
}

test('any pieces arrive whole, in messages of at most 32 KiB', async () => {
  const piece = fc.record({ size: fc.integer({ min: 0, max: 200_000 }), byte: fc.nat(255) });
  await fc.assert(
    fc.asyncProperty(fc.array(piece, { maxLength: 12 }), async (pieces) => {
      const { sender, receiver } = pair((message) => {
        assert.ok((unpackAny(Data, message)?.data.byteLength ?? 0) <= dataBytesMax);
      });
      const buffers = pieces.map(({ size, byte }) => Buffer.alloc(size, byte));
      const [received] = await Promise.all([
        collect(receiveBytes(receiver)),
        sendBytes(
          sender,
          (async function* () {
            yield* buffers;
          })(),
        ).then(() => sender.end()),
      ]);
      assert.ok(received.equals(Buffer.concat(buffers)));
    }),
    { numRuns: 40 },
  );
});

test('a sender never goes beyond its credit, however small the grants', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 3000 }),
      fc.array(fc.integer({ min: 0, max: 900 }), { minLength: 1, maxLength: 8 }),
      async (total, grants) => {
        let credit = 0;
        let sent = 0;
        const { sender, receiver } = pair((message) => {
          sent += unpackAny(Data, message)!.data.byteLength;
          assert.ok(sent <= credit, `${sent} bytes with a credit of ${credit}`);
        });
        const sending = sendBytes(
          sender,
          (async function* () {
            yield Buffer.alloc(total);
          })(),
        );
        for (let i = 0; credit < total; i++) {
          const update = grants[i % grants.length]! || 1;
          credit += update;
          await receiver.send(packAny(WindowUpdate, { update }));
          await new Promise(setImmediate);
        }
        await sending;
        assert.equal(sent, total);
      },
    ),
    { numRuns: 40 },
  );
});

test('what breaks the rules is refused', async () => {
  const source = async function* () {
    yield Buffer.alloc(10);
  };
  const left = pair();
  left.receiver.end();
  assert.equal((await failure(sendBytes(left.sender, source()))).code, 'canceled');
  const odd = pair();
  await odd.receiver.send(packAny(Data, { data: Buffer.alloc(1) }));
  assert.equal((await failure(sendBytes(odd.sender, source()))).code, 'invalid-argument');
  const flood = pair();
  for (let i = 0; i < 40; i++) await flood.sender.send(packAny(Data, { data: Buffer.alloc(60_000) }));
  const granted = receiveBytes({ ...flood.receiver, send: async () => {} });
  // Grants grow with what was read, so a flood is only told from a quick sender by a message beyond all of them.
  await flood.sender.send(packAny(Data, { data: Buffer.alloc(2_000_000) }));
  assert.match((await failure(collect(granted))).message, /more than was granted/);
});
