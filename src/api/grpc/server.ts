// Serves bound services over HTTP/2 on unix sockets, with limits on every message, header and stream, and an orderly
// end. node:http2 is used directly: grpc-js costs a third more per call, joins repeated headers, and shows a handler
// a canceled request stream as a complete one.
import http2 from 'node:http2';
import { fail } from '../model/errors.ts';
import type { BoundMethod, BoundService } from './bind.ts';
import { type CallHost, ServerCall } from './call.ts';
import { encodeStatusMessage } from './frame.ts';
import { FramePool } from './pool.ts';
import { listenOnSocket, type SocketOptions } from './socket.ts';
import { statusOf } from './status.ts';

export { type SocketOptions, socketPathBytesMax } from './socket.ts';

export const messageBytesDefault = 16 * 1024 * 1024;
const connectionsMax = 4096;
const headerListBytesMax = 64 * 1024;
/** How much of a request stream, and of all streams of a connection, may arrive before it is read. */
const streamWindowBytes = 1024 * 1024;
const connectionWindowBytes = 64 * 1024 * 1024;

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
  const host = {
    endless: new Set<ServerCall>(),
    draining: false as boolean,
    receiveBytesMax: options.receiveBytesMax ?? messageBytesDefault,
    sendBytesMax: options.sendBytesMax ?? messageBytesDefault,
    pool: new FramePool(),
    onUnexpected: options.onUnexpected ?? (() => {}),
  } satisfies CallHost;
  const sessions = new Set<http2.ServerHttp2Session>();
  const servers = new Set<http2.Http2Server>();

  const onSession = (session: http2.ServerHttp2Session): void => {
    sessions.add(session);
    session.on('close', () => sessions.delete(session));
    session.setLocalWindowSize(connectionWindowBytes);
    if (host.draining) session.close();
  };
  const onStream = (
    stream: http2.ServerHttp2Stream,
    joined: http2.IncomingHttpHeaders,
    _flags: number,
    raw: string[],
  ): void => {
    // What goes wrong on a stream also closes it, and its call hears of that.
    stream.on('error', ignore);
    const refusal = refusalOf(joined);
    if (refusal !== undefined) {
      stream.respond({ ':status': refusal }, { endStream: true });
      stream.resume();
      return;
    }
    const method = methods.get(joined[':path'] ?? '');
    if (method !== undefined) new ServerCall(stream, { joined, raw }, method, host);
    else refuseUnknown(stream, joined[':path'] ?? '');
  };

  return {
    async listen(socket) {
      const server = http2.createServer({
        settings: {
          initialWindowSize: streamWindowBytes,
          maxConcurrentStreams: options.concurrentStreamsMax ?? 4096,
          maxHeaderListSize: headerListBytesMax,
          enablePush: false,
        },
        // Megabytes. Streams are held in bounds one by one; at this limit node:http2 resets them without a reason.
        maxSessionMemory: 4096,
        // Cancelling is ordinary for the clients of a daemon, and they are no strangers.
        streamResetBurst: 100_000,
        streamResetRate: 10_000,
      });
      server.on('session', onSession);
      server.on('stream', onStream);
      server.on('sessionError', ignore);
      server.maxConnections = connectionsMax;
      await listenOnSocket(server, socket);
      // For example when the process is out of file descriptors: those connected go on.
      server.on('error', (error) => host.onUnexpected(error, socket.path));
      servers.add(server);
    },

    async close(drainMs) {
      host.draining = true;
      const closed = [...servers].map(
        (server) => new Promise<void>((resolve) => server.close(() => resolve())),
      );
      for (const call of host.endless) call.abort(fail('unavailable', 'the daemon is shutting down'));
      for (const session of sessions) session.close();
      const timer = setTimeout(() => {
        for (const session of sessions) session.destroy();
      }, drainMs);
      await Promise.all(closed);
      clearTimeout(timer);
      servers.clear();
    },
  };
}

function ignore(): void {}

/** The HTTP status for what is no gRPC call at all. */
function refusalOf(headers: http2.IncomingHttpHeaders): number | undefined {
  if (headers[':method'] !== 'POST') return 405;
  return headers['content-type']?.startsWith('application/grpc') === true ? undefined : 415;
}

function refuseUnknown(stream: http2.ServerHttp2Stream, path: string): void {
  const { code, details } = statusOf(fail('unimplemented', `unknown method ${path}`));
  stream.respond(
    {
      ':status': 200,
      'content-type': 'application/grpc',
      'grpc-status': String(code),
      'grpc-message': encodeStatusMessage(details),
    },
    { endStream: true },
  );
  stream.resume();
}
