// An address of actors that start late: by whoever calls first, or when there is nothing more urgent to do.
import type { ActorRef, ProtocolShape } from './types.ts';

export interface LateRef<P extends ProtocolShape<P>> extends ActorRef<P> {
  /** Starts what is behind the address, once. Rejects as `start` does; who comes later tries again. */
  begin(): Promise<void>;
}

/** Calls are passed to `ref` in their order when `start` is through. */
export function lateRef<P extends ProtocolShape<P>>(
  ref: ActorRef<P>,
  start: () => Promise<unknown>,
): LateRef<P> {
  let begun: Promise<void> | undefined;
  const begin = (): Promise<void> => {
    begun ??= start().then(
      () => undefined,
      (error) => {
        begun = undefined;
        throw error;
      },
    );
    return begun;
  };
  return {
    path: ref.path,
    begin,
    call: (op, request, options) => begin().then(() => ref.call(op, request, options)),
    cast(op, request, options) {
      // What cannot be delivered is dropped, as with any address.
      begin().then(
        () => ref.cast(op, request, options),
        () => {},
      );
    },
  };
}
