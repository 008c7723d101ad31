// A server on a socket in a temporary directory, and a grpc-js client that speaks to it as any client would.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { TestContext } from 'node:test';
import * as grpc from '@grpc/grpc-js';
import type { BoundService, ServiceDefinition } from '../../../../src/api/grpc/bind.ts';
import {
  createGrpcServer,
  type GrpcServer,
  type GrpcServerOptions,
} from '../../../../src/api/grpc/server.ts';

export function tempDir(t: TestContext): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'troupe-grpc-'));
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export interface Harness {
  readonly socket: string;
  readonly server: GrpcServer;
  readonly client: grpc.Client;
}

export async function serve(
  t: TestContext,
  services: readonly BoundService[],
  options: Omit<GrpcServerOptions, 'services'> = {},
): Promise<Harness> {
  const socket = path.join(tempDir(t), 'troupe.sock');
  const server = createGrpcServer({ services, ...options });
  await server.listen({ path: socket });
  const client = connect(socket);
  t.after(async () => {
    client.close();
    await server.close(0);
  });
  return { socket, server, client };
}

export function connect(socket: string): grpc.Client {
  return new grpc.Client(`unix:${socket}`, grpc.credentials.createInsecure(), {
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
  });
}

export function headers(values: Record<string, string | string[]>): grpc.Metadata {
  const metadata = new grpc.Metadata();
  for (const [name, value] of Object.entries(values)) {
    for (const one of [value].flat()) metadata.add(name, one);
  }
  return metadata;
}

export const inNamespace = headers({ 'containerd-namespace': 'testing' });

type Methods<D extends ServiceDefinition> = D['methods'];
type Request<D extends ServiceDefinition, K extends keyof Methods<D>> = Parameters<
  Methods<D>[K]['requestType']['encode']
>[0];
type Response<D extends ServiceDefinition, K extends keyof Methods<D>> = ReturnType<
  Methods<D>[K]['responseType']['decode']
>;

function wire<D extends ServiceDefinition, K extends keyof Methods<D> & string>(definition: D, name: K) {
  const method = definition.methods[name]!;
  return {
    path: `/${definition.fullName}/${method.name}`,
    encode: (request: Request<D, K>) => Buffer.from(method.requestType.encode(request).finish()),
    decode: (bytes: Buffer): Response<D, K> => method.responseType.decode(bytes),
  };
}

export function unary<D extends ServiceDefinition, K extends keyof Methods<D> & string>(
  client: grpc.Client,
  definition: D,
  name: K,
  request: Request<D, K>,
  metadata: grpc.Metadata = inNamespace,
  options: grpc.CallOptions = {},
): Promise<Response<D, K>> {
  const { path: method, encode, decode } = wire(definition, name);
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(method, encode, decode, request, metadata, options, (error, response) =>
      error === null ? resolve(response as Response<D, K>) : reject(error),
    );
  });
}

export function serverStream<D extends ServiceDefinition, K extends keyof Methods<D> & string>(
  client: grpc.Client,
  definition: D,
  name: K,
  request: Request<D, K>,
  metadata: grpc.Metadata = inNamespace,
): grpc.ClientReadableStream<Response<D, K>> {
  const { path: method, encode, decode } = wire(definition, name);
  return client.makeServerStreamRequest(method, encode, decode, request, metadata);
}

export function bidi<D extends ServiceDefinition, K extends keyof Methods<D> & string>(
  client: grpc.Client,
  definition: D,
  name: K,
  metadata: grpc.Metadata = inNamespace,
): grpc.ClientDuplexStream<Request<D, K>, Response<D, K>> {
  const { path: method, encode, decode } = wire(definition, name);
  return client.makeBidiStreamRequest(method, encode, decode, metadata);
}
