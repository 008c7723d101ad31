// Serves bound services on unix sockets, with limits on every message, header and stream, and an orderly end.
import fs from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import {
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { fail, wrap } from '../model/errors.ts';
import type { BoundMethod, BoundService } from './bind.ts';
import { type CallHost, ServerCall } from './call.ts';

/** Short of Linux's 108 bytes (unix(7)), so that the path also fits where 104 is the limit. */
export const socketPathBytesMax = 104;
export const messageBytesDefault = 16 * 1024 * 1024;

export interface GrpcServerOptions {
  readonly services: readonly BoundService[];
  readonly receiveBytesMax?: number;
  readonly sendBytesMax?: number;
  readonly concurrentStreamsMax?: number;
  /** How often an idle connection is asked whether its client still lives. */
  readonly keepaliveMs?: number;
  readonly keepaliveTimeoutMs?: number;
  /** Told of errors that no handler meant to throw; they reach the client as Unknown. */
  readonly onUnexpected?: (error: unknown, path: string) => void;
}

export interface SocketOptions {
  readonly path: string;
  readonly uid?: number;
  readonly gid?: number;
}

export interface GrpcServer {
  /** Listens on a socket, mode 0660; may be called for several. */
  listen(socket: SocketOptions): Promise<void>;
  /** Refuses new calls, ends the endless ones, waits for the others up to `drainMs`, then cuts them off. */
  close(drainMs: number): Promise<void>;
}

export function createGrpcServer(options: GrpcServerOptions): GrpcServer {
  const methods = new Map<string, BoundMethod>();
  const host = {
    endless: new Set<ServerCall>(),
    draining: false as boolean,
    sendBytesMax: options.sendBytesMax ?? messageBytesDefault,
    onUnexpected: options.onUnexpected ?? (() => {}),
  } satisfies CallHost;
  const server = new Server({
    'grpc.max_receive_message_length': options.receiveBytesMax ?? messageBytesDefault,
    'grpc.max_send_message_length': options.sendBytesMax ?? messageBytesDefault,
    'grpc.max_concurrent_streams': options.concurrentStreamsMax ?? 4096,
    'grpc.keepalive_time_ms': options.keepaliveMs ?? 7_200_000,
    'grpc.keepalive_timeout_ms': options.keepaliveTimeoutMs ?? 20_000,
    'grpc.enable_channelz': 0,
    interceptors: [
      (definition: { path: string }, call: ConstructorParameters<typeof ServerCall>[0]) => {
        const method = methods.get(definition.path);
        if (method === undefined) throw fail('internal', `no method ${definition.path}`);
        return new ServerCall(call, method, host);
      },
    ],
  });
  for (const service of options.services) {
    const definition: Record<string, ServiceDefinition[string]> = {};
    for (const method of service.methods) {
      methods.set(method.path, method);
      definition[method.path] = {
        path: method.path,
        requestStream: method.requestStream,
        responseStream: method.responseStream,
        requestSerialize: asBuffer,
        requestDeserialize: method.decode,
        responseSerialize: asBuffer,
        responseDeserialize: asBuffer,
      };
    }
    server.addService(definition, {} as UntypedServiceImplementation);
  }
  return {
    listen: (socket) => listen(server, socket),
    close: async (drainMs) => {
      host.draining = true;
      for (const call of host.endless) call.abort(fail('unavailable', 'the daemon is shutting down'));
      await new Promise<void>((resolve) => {
        const timer = setTimeout(() => server.forceShutdown(), drainMs);
        server.tryShutdown(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    },
  };
}

function asBuffer(bytes: Buffer): Buffer {
  return bytes;
}

async function listen(server: Server, socket: SocketOptions): Promise<void> {
  if (!path.isAbsolute(socket.path)) {
    throw fail('invalid-argument', `socket path "${socket.path}" must be absolute`);
  }
  if (Buffer.byteLength(socket.path) > socketPathBytesMax) {
    throw fail('invalid-argument', `socket path "${socket.path}" is longer than ${socketPathBytesMax} bytes`);
  }
  await fs.mkdir(path.dirname(socket.path), { recursive: true, mode: 0o770 });
  await removeStale(socket.path);
  try {
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(`unix:${socket.path}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    });
    await fs.chmod(socket.path, 0o660);
    if (socket.uid !== undefined || socket.gid !== undefined) {
      const { uid, gid } = await fs.stat(socket.path);
      await fs.chown(socket.path, socket.uid ?? uid, socket.gid ?? gid);
    }
  } catch (error) {
    throw wrap(`listen on ${socket.path}`, error);
  }
}

/** Unlinks what a killed daemon left; refuses when something is listening there or the file is no socket. */
async function removeStale(socketPath: string): Promise<void> {
  const stat = await fs.lstat(socketPath).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw wrap(`socket ${socketPath}`, error);
  });
  if (stat === undefined) return;
  if (!stat.isSocket()) throw fail('failed-precondition', `${socketPath} exists and is not a socket`);
  if (await answers(socketPath)) {
    throw fail('already-exists', `another process is listening on ${socketPath}`);
  }
  await fs.rm(socketPath, { force: true });
}

function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect(socketPath);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    // Any refusal but this one (a full backlog, no permission) means that somebody holds the socket.
    probe.once('error', (error: NodeJS.ErrnoException) =>
      resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
  });
}
