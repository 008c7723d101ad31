// A ttrpc server on a unix socket: who may connect, how many, and what they find there.
import { chmodSync, chownSync, lstatSync, unlinkSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { fail } from '../model/errors.ts';
import { ServerConnection } from './connection.ts';
import type { TtrpcService } from './service.ts';

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

export interface TtrpcServerOptions {
  readonly services: readonly TtrpcService[];
  /**
   * SO_PEERCRED of a connected socket (unix(7)). When given, only peers with this process's effective uid and
   * gid are served; the others are hung up on unanswered.
   */
  readonly peerCredentials?: (fd: number) => PeerCredentials;
  /** Default 4096. */
  readonly connectionsMax?: number;
  /** Told of peers that were refused and of errors on connections. */
  readonly onError?: (error: Error) => void;
  /** Told of each peer that is served. */
  readonly onConnection?: () => void;
}

export interface ListenOptions {
  readonly path: string;
  /** Default 0o660. */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
}

const connectionsMaxDefault = 4096;

export class TtrpcServer {
  readonly #options: TtrpcServerOptions;
  readonly #services: ReadonlyMap<string, TtrpcService>;
  readonly #connections = new Set<ServerConnection>();
  #server: Server | undefined;

  constructor(options: TtrpcServerOptions) {
    this.#options = options;
    this.#services = new Map(options.services.map((service) => [service.name, service]));
  }

  get connections(): number {
    return this.#connections.size;
  }

  /**
   * Listens at `path`, in place of a stale socket; a leading NUL makes it an abstract one (unix(7)). Called again, it
   * goes on listening with a new socket; connections stay.
   */
  async listen(options: ListenOptions): Promise<void> {
    const { path, mode = 0o660, uid, gid } = options;
    const abstract = path.startsWith('\0');
    // Closed first: a socket that closes takes the file of its name along, whosever it is.
    this.#server?.close();
    if (!abstract) removeStaleSocket(path);
    const server = createServer((socket) => this.accept(socket));
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ path }, () => {
        server.off('error', reject);
        resolve();
      });
    });
    server.on('error', (error) => this.#options.onError?.(error));
    if (abstract) return;
    chmodSync(path, mode);
    if (uid !== undefined || gid !== undefined) chownSync(path, uid ?? -1, gid ?? -1);
  }

  /** Serves one connected socket. */
  accept(socket: Socket): void {
    const refusal = this.#refusal(socket);
    if (refusal !== undefined) {
      this.#options.onError?.(refusal);
      socket.on('error', () => {});
      socket.destroy();
      return;
    }
    const connection = new ServerConnection(socket, this.#services);
    this.#connections.add(connection);
    this.#options.onConnection?.();
    void connection.closed.then(() => this.#connections.delete(connection));
  }

  #refusal(socket: Socket): Error | undefined {
    const max = this.#options.connectionsMax ?? connectionsMaxDefault;
    if (this.#connections.size >= max) return fail('resource-exhausted', `${max} ttrpc connections already`);
    const { peerCredentials } = this.#options;
    if (peerCredentials === undefined) return undefined;
    try {
      const { pid, uid, gid } = peerCredentials(fdOf(socket));
      if (uid === process.geteuid?.() && gid === process.getegid?.()) return undefined;
      return fail('permission-denied', `ttrpc peer pid ${pid} has uid ${uid} and gid ${gid}`);
    } catch (error) {
      return fail('permission-denied', 'ttrpc peer credentials are unreadable', error);
    }
  }

  /** Stops listening and hangs up; calls in flight are told by their signal. */
  async close(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    for (const connection of this.#connections) connection.close();
    if (server === undefined) return;
    await new Promise<void>((resolve) => server.close(() => resolve()));
  }
}

/** Node has no public way to a socket's descriptor. */
function fdOf(socket: Socket): number {
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd;
  if (typeof fd !== 'number' || fd < 0) throw fail('unavailable', 'the socket has no descriptor');
  return fd;
}

function removeStaleSocket(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) throw fail('already-exists', `${path} exists and is no socket`);
  unlinkSync(path);
}
