// One connection for each shim process, shared by all tasks that it holds.
import { codeOf, fail } from '../../api/model/errors.ts';
import {
  connectionClosedMessage,
  type DialShim,
  type ShimAddress,
  type ShimConnection,
  type ShimDialOptions,
} from '../../api/model/ports/shim.ts';

interface Shared {
  readonly connection: ShimConnection;
  /** Handles that have not been closed. */
  users: number;
}

/**
 * Dials each shim once: whoever dials it meanwhile, or while somebody still uses the connection, gets a handle on the
 * same one. The last handle that is closed closes it.
 */
export function sharedDialer(dial: DialShim): DialShim {
  const open = new Map<string, Shared>();
  const dialing = new Map<string, Promise<Shared>>();

  function handleOn(key: string, entry: Shared, shared: boolean): ShimConnection {
    const { connection } = entry;
    entry.users++;
    let closed = false;
    const { promise, resolve } = Promise.withResolvers<void>();
    void connection.closed.then(resolve);
    return {
      shared,
      get ended() {
        return closed || connection.ended;
      },
      closed: promise,
      call: (service, method, payload, options) =>
        closed
          ? Promise.reject(fail('unknown', connectionClosedMessage))
          : connection.call(service, method, payload, options),
      close() {
        if (closed) return;
        closed = true;
        resolve();
        if (--entry.users > 0) return;
        if (open.get(key) === entry) open.delete(key);
        connection.close();
      },
    };
  }

  async function dialOnce(key: string, address: ShimAddress, options: ShimDialOptions): Promise<Shared> {
    const entry: Shared = { connection: await dial(address, options), users: 0 };
    open.set(key, entry);
    void entry.connection.closed.then(() => {
      if (open.get(key) === entry) open.delete(key);
    });
    return entry;
  }

  return async (address, options) => {
    const key = [address.protocol, options.namespace, address.address].join('\0');
    for (;;) {
      const found = open.get(key);
      if (found !== undefined && !found.connection.ended) return handleOn(key, found, true);
      const waiting = dialing.get(key);
      if (waiting === undefined) break;
      try {
        const entry = await waiting;
        if (!entry.connection.ended) return handleOn(key, entry, true);
      } catch (error) {
        // Somebody else's patience or change of mind says nothing of the shim.
        const code = codeOf(error);
        if (code !== 'canceled' && code !== 'deadline-exceeded') throw error;
        options.signal?.throwIfAborted();
      }
    }
    const attempt = dialOnce(key, address, options);
    dialing.set(key, attempt);
    try {
      return handleOn(key, await attempt, false);
    } finally {
      dialing.delete(key);
    }
  };
}
