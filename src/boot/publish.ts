// `trouped publish`: how a shim that speaks no ttrpc hands an event to the daemon.
import { readFileSync } from 'node:fs';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { Any } from '../api/proto/gen/google/protobuf/any.ts';
import { PublishRequest } from '../api/proto/gen/services/events/v1/events.ts';

const eventBytesMax = 4 * 1024 * 1024;
const deadlineMs = 10_000;

/** Reads the event from standard input and publishes it at the daemon that listens on `address`. */
export async function publishEvent(
  address: string,
  { namespace, topic }: { namespace: string; topic: string },
): Promise<void> {
  const input = readFileSync(0);
  if (input.length > eventBytesMax) throw new Error(`the event is longer than ${eventBytesMax} bytes`);
  const request = PublishRequest.encode({ topic, event: Any.decode(input) }).finish();
  const client = new Client(`unix:${address}`, credentials.createInsecure());
  const metadata = new Metadata();
  metadata.set('containerd-namespace', namespace);
  try {
    await new Promise<void>((resolve, reject) => {
      client.makeUnaryRequest(
        '/containerd.services.events.v1.Events/Publish',
        (bytes: Uint8Array) => Buffer.from(bytes),
        (bytes: Buffer) => bytes,
        request,
        metadata,
        { deadline: Date.now() + deadlineMs },
        (error) => (error === null ? resolve() : reject(error)),
      );
    });
  } finally {
    client.close();
  }
}
