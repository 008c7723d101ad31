// The face of streaming: byte streams and message streams that a client opens first and names in a request later.
import type { Namespace } from '../../api/model/ids.ts';
import type { Any } from '../../api/proto/gen/google/protobuf/any.ts';

/** One bidirectional call of the Streaming service, as whoever was told its id uses it. */
export interface Stream {
  readonly id: string;
  /** Resolves when more may be sent. Throws `canceled` when the client is gone, `unavailable` after `close`. */
  send(message: Any): Promise<void>;
  /** Undefined when the client has sent its last message. One reader at a time. */
  receive(): Promise<Any | undefined>;
  /** Ends the call once everything sent has gone out; with an error at once. */
  close(error?: Error): void;
}

/** What the service has of a call. */
export interface StreamCall {
  readonly namespace: Namespace;
  readonly lease: string | undefined;
  readonly requests: AsyncIterator<Any>;
  readonly signal: AbortSignal;
}

/** A registered stream seen from its call: what is to go to the client. */
export interface OpenStream extends Disposable {
  readonly outgoing: AsyncIterable<Any>;
}

export interface Streams {
  /** Throws `already-exists` for an id in use, `invalid-argument` for none, `resource-exhausted` past the limit. */
  open(id: string, call: StreamCall): OpenStream;
  /** Throws `not-found`. */
  get(namespace: Namespace, id: string): Stream;
  /** Ends the streams whose leases are gone. */
  collect(isKept: (namespace: Namespace, lease: string, id: string) => boolean): number;
}
