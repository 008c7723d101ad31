// Where a ttrpc or gRPC peer listens: the forms of address that shims print, and dialing them.
import { connect, type Socket } from 'node:net';
import { codeOf, fail, messageOf, wrap } from '../model/errors.ts';

/** sun_path of unix(7) without its closing NUL. */
const socketPathBytesMax = 107;
const busyRetryMs = 100;

/**
 * The path that Node connects to: `unix://<path>` is a path, a text without `://` names an abstract socket
 * (unix(7)). Other schemes (vsock, hvsock) are `unimplemented`.
 */
export function socketPathOf(address: string): string {
  const path = address.startsWith('unix://') ? address.slice('unix://'.length) : `\0${address}`;
  if (path.startsWith('\0') && address.includes('://')) {
    throw fail('unimplemented', `ttrpc address "${address}": only unix sockets are supported`);
  }
  if (path.length < 2 && path !== '/') throw fail('invalid-argument', `ttrpc address "${address}" is empty`);
  if (Buffer.byteLength(path) > socketPathBytesMax) {
    throw fail('invalid-argument', `socket path of "${address}" is longer than ${socketPathBytesMax} bytes`);
  }
  return path;
}

export interface DialOptions {
  /** How long to try, in all. */
  timeoutMs: number;
  /** Pause before trying again while nobody listens yet; absent: one attempt. */
  retryMs?: number;
  signal?: AbortSignal;
}

/** A connected socket. Errors carry `unavailable`, `deadline-exceeded`, `resource-exhausted` or `canceled`. */
export async function dial(address: string, options: DialOptions): Promise<Socket> {
  const path = socketPathOf(address);
  const limit = AbortSignal.timeout(options.timeoutMs);
  const stop = options.signal === undefined ? limit : AbortSignal.any([limit, options.signal]);
  for (;;) {
    try {
      return await attempt(path, stop);
    } catch (error) {
      if (stop.aborted) throw wrap(`dial ${address}`, stop.reason);
      const code = (error as { code?: unknown }).code;
      // ECONNRESET: who listened there ended while the connection was in its queue.
      const absent = code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ECONNRESET';
      // Its queue of connections is full: whoever listens there is busy or stopped, but there.
      const busy = code === 'EAGAIN';
      if (!busy && (!absent || options.retryMs === undefined)) {
        // Out of descriptors says nothing of the peer.
        const exhausted = codeOf(error) === 'resource-exhausted';
        const text = `dial ${address}: ${messageOf(error)}`;
        throw fail(exhausted ? 'resource-exhausted' : 'unavailable', text, error);
      }
    }
    await pause(options.retryMs ?? busyRetryMs, stop);
  }
}

function attempt(path: string, stop: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    const done = (settle: () => void) => {
      stop.removeEventListener('abort', onAbort);
      socket.removeAllListeners();
      settle();
    };
    const give = (error: unknown) =>
      done(() => {
        socket.on('error', () => {});
        socket.destroy();
        reject(error);
      });
    const onAbort = () => give(stop.reason);
    socket.once('connect', () => done(() => resolve(socket)));
    socket.once('error', give);
    stop.addEventListener('abort', onAbort, { once: true });
    if (stop.aborted) onAbort();
  });
}

function pause(delayMs: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      stop.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, delayMs);
    stop.addEventListener('abort', done, { once: true });
  });
}
