// One thread that publishes events and has subscribers for them: how long until the last of them has the last event.
import { setTimeout as sleep } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import {
  EventsDefinition,
  PublishRequest,
  SubscribeRequest,
} from '../src/api/proto/gen/services/events/v1/events.ts';
import type { EventLoad, EventResult } from './events.ts';
import { LoadConnection } from './load-connection.ts';

const { load } = workerData as { load: EventLoad };
const pathOf = (method: string): string => `/${EventsDefinition.fullName}/${method}`;
const publishersMax = 64;
const quietMs = 200;
const event = {
  typeUrl: 'containerd.events.ContainerDelete',
  value: Buffer.from([0x0a, 4, 0x74, 0x65, 0x73, 0x74]),
};
const publication = PublishRequest.encode({ topic: '/bench/event', event }).finish();

async function main(): Promise<void> {
  const headers = {
    'content-type': 'application/grpc',
    te: 'trailers',
    'containerd-namespace': load.namespace,
  };
  const publisher = new LoadConnection(load.socketPath, headers);
  const counts = new Array<number>(load.subscriberCount).fill(0);
  let ended: string | undefined;
  let onCount: () => void = () => {};
  const request = SubscribeRequest.encode({ filters: ['topic=="/bench/event"'] }).finish();
  const subscribers = counts.map((_, i) => {
    // Each has a connection of its own, as separate programs have.
    const connection = new LoadConnection(load.socketPath, headers);
    connection.follow(
      pathOf('Subscribe'),
      request,
      (count) => {
        counts[i]! += count;
        onCount();
      },
      (error) => {
        ended ??= error ?? 'the stream of events has ended';
        onCount();
      },
    );
    return connection;
  });
  const publish = async (): Promise<void> => {
    const error = await publisher.call(pathOf('Publish'), publication);
    if (error !== undefined) throw new Error(error);
  };
  // A subscription says nothing until its first event: publish until all have one, and the last ones have come.
  while (counts.includes(0)) {
    await publish();
    await sleep(10);
  }
  for (let before = -1, sum = 0; sum !== before; ) {
    before = sum;
    await sleep(quietMs);
    sum = counts.reduce((a, b) => a + b, 0);
  }
  const goal = counts.map((count) => count + load.publishCount);
  const began = performance.now();
  let left = load.publishCount;
  const delivered = new Promise<void>((resolve, reject) => {
    onCount = () => {
      if (ended !== undefined) reject(new Error(ended));
      else if (counts.every((count, i) => count >= goal[i]!)) resolve();
    };
  });
  const publishing = Array.from({ length: publishersMax }, async () => {
    while (left-- > 0) await publish();
  });
  await Promise.all([...publishing, delivered]);
  const elapsedMs = performance.now() - began;
  for (const connection of [publisher, ...subscribers]) connection.close();
  const result: EventResult = {
    perSecond: (load.publishCount * load.subscriberCount * 1000) / elapsedMs,
  };
  parentPort!.postMessage(result);
}

await main();
