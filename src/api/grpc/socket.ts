// Where a unix socket may be: a path that fits, in a directory of its owner's, that nobody else is listening on.
import fs from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import { fail, wrap } from '../model/errors.ts';

/** Short of Linux's 108 bytes (unix(7)), so that the path also fits where 104 is the limit. */
export const socketPathBytesMax = 104;

export interface SocketOptions {
  /** Absolute. */
  readonly path: string;
  /** Owner and group of the socket; default: those of the process. */
  readonly uid?: number;
  readonly gid?: number;
}

/** Listens with `server` on a socket of mode 0660. Directories that are missing are made with mode 0770. */
export async function listenOnSocket(server: net.Server, socket: SocketOptions): Promise<void> {
  if (!path.isAbsolute(socket.path)) {
    throw fail('invalid-argument', `socket path "${socket.path}" must be absolute`);
  }
  if (Buffer.byteLength(socket.path) > socketPathBytesMax) {
    throw fail('invalid-argument', `socket path "${socket.path}" is longer than ${socketPathBytesMax} bytes`);
  }
  try {
    await fs.mkdir(path.dirname(socket.path), { recursive: true, mode: 0o770 });
    await removeStale(socket.path);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(socket.path, () => {
        server.off('error', reject);
        resolve();
      });
    });
    await fs.chmod(socket.path, 0o660);
    await fs.chown(socket.path, socket.uid ?? process.getuid?.() ?? 0, socket.gid ?? process.getgid?.() ?? 0);
  } catch (error) {
    server.close();
    throw wrap(`listen on ${socket.path}`, error);
  }
}

/** Unlinks what a killed daemon left; refuses when something is listening there or the file is no socket. */
async function removeStale(socketPath: string): Promise<void> {
  const stat = await fs.lstat(socketPath).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (stat === undefined) return;
  if (!stat.isSocket()) throw fail('failed-precondition', 'the file exists and is not a socket');
  if (await answers(socketPath)) throw fail('already-exists', 'another process is listening there');
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
