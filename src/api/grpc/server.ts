// Serves bound services over HTTP/2 on unix sockets, with limits on every message, header and stream, and an orderly
// end. The HTTP/2 is our own (api/h2): node:http2 costs ten times as much of the main thread for each call.
import net from 'node:net';
import { H2Connection } from '../h2/connection.ts';
import type { RequestHeaders } from '../h2/headers.ts';
import { type H2Limits, limitsDefault } from '../h2/limits.ts';
import type { H2Stream } from '../h2/stream.ts';
import { WriteBuffers } from '../h2/writer.ts';
import { fail } from '../model/errors.ts';
import type { BoundMethod, BoundService } from './bind.ts';
import { refuseOther, refuseUnknown, ServerCall } from './call.ts';
import { headOf } from './head.ts';
import { FramePool } from './pool.ts';
import { listenOnSocket, type SocketOptions } from './socket.ts';

export { type SocketOptions, socketPathBytesMax } from './socket.ts';

export const messageBytesDefault = 16 * 1024 * 1024;
const connectionsMax = 4096;
const unfinishedBytesMax = 512 * 1024 * 1024;
/** How often connections are looked at for what has been open for too long. */
const sweepIntervalMs = 10_000;

export interface GrpcServerOptions {
  readonly services: readonly BoundService[];
  readonly receiveBytesMax?: number;
  readonly sendBytesMax?: number;
  /** Calls at a time on one connection. */
  readonly concurrentStreamsMax?: number;
  /** Told of errors that no handler meant to throw; they reach the client as Unknown. */
  readonly onUnexpected?: (error: unknown, path: string) => void;
}

export interface GrpcServer {
  /** Listens on a socket, mode 0660; may be called for several. */
  listen(socket: SocketOptions): Promise<void>;
  /** Refuses new calls, ends the endless ones, waits for the others up to `drainMs`, then cuts them off. */
  close(drainMs: number): Promise<void>;
}

export function createGrpcServer(options: GrpcServerOptions): GrpcServer {
  const methods = new Map<string, BoundMethod>();
  for (const service of options.services) {
    for (const method of service.methods) {
      if (methods.has(method.path)) throw fail('already-exists', `method ${method.path} is bound twice`);
      methods.set(method.path, method);
    }
  }
  const limits: H2Limits = {
    ...limitsDefault,
    concurrentStreamsMax: options.concurrentStreamsMax ?? limitsDefault.concurrentStreamsMax,
  };
  const onUnexpected = options.onUnexpected ?? (() => {});
  const connections = new Set<H2Connection>();
  const servers = new Set<net.Server>();
  let sweeper: NodeJS.Timeout | undefined;

  const host = {
    endless: new Set<ServerCall>(),
    draining: false as boolean,
    receiveBytesMax: options.receiveBytesMax ?? messageBytesDefault,
    sendBytesMax: options.sendBytesMax ?? messageBytesDefault,
    unfinishedBytes: 0,
    unfinishedBytesMax,
    pool: new FramePool(),
    onUnexpected,
  };
  const connectionHost = {
    limits,
    buffers: new WriteBuffers(),
    tick: 0,
    onStream(stream: H2Stream, headers: RequestHeaders): void {
      const head = headOf(headers, methods);
      if (head.refusal !== undefined) refuseOther(stream, head.refusal);
      else if (head.method === undefined) refuseUnknown(stream, head.path);
      else {
        const call = new ServerCall(stream, head, head.method, host);
        stream.handler = call;
        call.start();
      }
    },
    onClose(connection: H2Connection): void {
      connections.delete(connection);
      if (connections.size > 0) return;
      clearInterval(sweeper);
      sweeper = undefined;
    },
    onUnexpected: (error: unknown) => onUnexpected(error, 'HTTP/2'),
  };

  const sweep = (): void => {
    connectionHost.tick++;
    for (const connection of connections) connection.sweep(connectionHost.tick);
  };
  const onConnection = (socket: net.Socket): void => {
    const connection = new H2Connection(socket, connectionHost);
    connections.add(connection);
    sweeper ??= setInterval(sweep, sweepIntervalMs).unref();
    if (host.draining) connection.drain();
  };

  return {
    async listen(socket) {
      const server = net.createServer(onConnection);
      server.maxConnections = connectionsMax;
      await listenOnSocket(server, socket);
      // For example when the process is out of file descriptors: those connected go on.
      server.on('error', (error) => onUnexpected(error, socket.path));
      servers.add(server);
    },

    async close(drainMs) {
      host.draining = true;
      const closed = [...servers].map(
        (server) => new Promise<void>((resolve) => server.close(() => resolve())),
      );
      for (const call of host.endless) call.abort(fail('unavailable', 'the daemon is shutting down'));
      for (const connection of connections) connection.drain();
      const timer = setTimeout(() => {
        for (const connection of connections) connection.destroy();
      }, drainMs);
      await Promise.all(closed);
      clearTimeout(timer);
      servers.clear();
    },
  };
}
