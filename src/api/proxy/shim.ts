// The shim port over gRPC, for shims that answer with that protocol: version 3 of the task service on a unix socket.
import type { Client } from '@grpc/grpc-js';
import { fail, messageOf } from '../model/errors.ts';
import { connectionClosedMessage, type DialShim, type ShimConnection } from '../model/ports/shim.ts';

type Grpc = typeof import('@grpc/grpc-js');

const namespaceKey = 'containerd-namespace';
const messageBytesMax = 16 * 1024 * 1024;
/** A gRPC shim listens before it says so: no need for the patience that ttrpc shims get. */
const dialTimeoutMsMax = 10_000;

const identity = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** The error that the status of a failed call stands for. */
export type ErrorOfStatus = (code: number, details: string) => Error;

/** Dials shims whose address is a path. Errors carry `unavailable`, `deadline-exceeded` or `canceled`. */
export function grpcShimDialer(errorOfStatus: ErrorOfStatus): DialShim {
  return async ({ address }, options) => {
    if (!address.startsWith('/')) {
      throw fail('invalid-argument', `gRPC shim address "${address}" is not a path`);
    }
    // Loaded with the first such shim: most daemons never meet one, and it takes 20 MB.
    // A bundler gives what a CommonJS package exports as its default alone.
    const { default: grpc } = await import('@grpc/grpc-js');
    const client = new grpc.Client(`unix:${address}`, grpc.credentials.createInsecure(), {
      'grpc.max_receive_message_length': messageBytesMax,
      'grpc.max_send_message_length': messageBytesMax,
      // A shim that is gone stays gone: nothing is to be gained from finding another one at its address.
      'grpc.enable_retries': 0,
      'grpc.use_local_subchannel_pool': 1,
    });
    const deadline = Date.now() + Math.min(options.timeoutMs, dialTimeoutMsMax);
    try {
      await ready(client, deadline, options.signal);
    } catch (error) {
      client.close();
      throw error;
    }
    return connectionOf(grpc, client, options.namespace, errorOfStatus);
  };
}

function ready(client: Client, deadline: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(fail('canceled', 'dial of a gRPC shim: context canceled'));
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
    client.waitForReady(deadline, (error) => {
      signal?.removeEventListener('abort', onAbort);
      if (error === undefined || error === null) resolve();
      else reject(fail('unavailable', `dial of a gRPC shim: ${messageOf(error)}`, error));
    });
  });
}

function connectionOf(
  grpc: Grpc,
  client: Client,
  namespace: string,
  errorOfStatus: ErrorOfStatus,
): ShimConnection {
  const { promise: closed, resolve } = Promise.withResolvers<void>();
  let ended = false;
  const end = () => {
    if (ended) return;
    ended = true;
    client.close();
    resolve();
  };
  const { READY } = grpc.connectivityState;
  watch(client.getChannel(), READY, end, () => ended);
  const metadata = new grpc.Metadata();
  metadata.set(namespaceKey, namespace);
  return {
    get ended() {
      return ended;
    },
    closed,
    close: end,
    call(service, method, payload, { deadlineMs, signal }) {
      if (ended) return Promise.reject(fail('unknown', connectionClosedMessage));
      return new Promise((settle, reject) => {
        const deadline = Number.isFinite(deadlineMs) ? { deadline: Date.now() + deadlineMs } : {};
        const call = client.makeUnaryRequest(
          `/${service}/${method}`,
          identity,
          (bytes: Buffer) => bytes,
          payload,
          metadata,
          deadline,
          (error, answer) => {
            signal?.removeEventListener('abort', onAbort);
            if (error !== null) {
              // The calls hear of the end before the channel's watcher does.
              if (client.getChannel().getConnectivityState(false) !== READY) end();
              reject(
                ended ? fail('unknown', connectionClosedMessage) : errorOfStatus(error.code, error.details),
              );
            } else settle(answer as Buffer);
          },
        );
        const onAbort = () => call.cancel();
        signal?.addEventListener('abort', onAbort, { once: true });
        if (signal?.aborted) onAbort();
      });
    },
  };
}

/** Calls `end` when the channel, `ready` now, is anything else. */
function watch(
  channel: ReturnType<Client['getChannel']>,
  ready: number,
  end: () => void,
  ended: () => boolean,
): void {
  const look = () => {
    if (ended()) return;
    const state = channel.getConnectivityState(false);
    if (state !== ready) end();
    else channel.watchConnectivityState(state, Number.POSITIVE_INFINITY, look);
  };
  look();
}
