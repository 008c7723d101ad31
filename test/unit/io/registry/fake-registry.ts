// A registry on loopback that misbehaves on demand: each test hands in what answers a request.
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Digest } from '../../../../src/api/model/ids.ts';
import { type LinkedDescriptor, mediaType } from '../../../../src/api/model/oci.ts';

export interface Seen {
  method: string;
  path: string;
  query: string;
  headers: IncomingMessage['headers'];
  body: string;
}

export type Answer = (request: Seen, response: ServerResponse, count: number) => void | Promise<void>;

export interface FakeRegistry extends AsyncDisposable {
  /** `127.0.0.1:PORT` */
  host: string;
  seen: Seen[];
}

/** `count` tells an answer how many requests of that method and path came before. */
export async function fakeRegistry(answer: Answer): Promise<FakeRegistry> {
  const seen: Seen[] = [];
  const counts = new Map<string, number>();
  const server = createServer((request, response) => {
    const chunks: Uint8Array[] = [];
    request.on('data', (chunk: Uint8Array) => chunks.push(chunk));
    request.on('end', async () => {
      const url = new URL(request.url ?? '/', 'http://x');
      const one: Seen = {
        method: request.method ?? '',
        path: url.pathname,
        query: url.search,
        headers: request.headers,
        body: Buffer.concat(chunks).toString(),
      };
      const key = `${one.method} ${one.path}`;
      const count = counts.get(key) ?? 0;
      counts.set(key, count + 1);
      seen.push(one);
      await answer(one, response, count);
    });
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((closed) => server.close(() => closed()));
    },
  };
}

export function digestOf(bytes: Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}` as Digest;
}

export function layerOf(bytes: Uint8Array): LinkedDescriptor {
  return {
    mediaType: mediaType.ociLayer,
    digest: digestOf(bytes),
    size: BigInt(bytes.byteLength),
    annotations: new Map(),
    urls: [],
  };
}

export async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}
