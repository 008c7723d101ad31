// The event stream, with the events that containerd defines decoded.
import { type EventPosition, eventsAfterHeader, sequenceOfEnvelope } from '../model/envelope.ts';
import { goZeroTime } from '../model/time.ts';
import * as container from '../proto/gen/events/container.ts';
import * as content from '../proto/gen/events/content.ts';
import * as image from '../proto/gen/events/image.ts';
import * as namespace from '../proto/gen/events/namespace.ts';
import * as sandbox from '../proto/gen/events/sandbox.ts';
import * as snapshot from '../proto/gen/events/snapshot.ts';
import * as task from '../proto/gen/events/task.ts';
import type { Any } from '../proto/gen/google/protobuf/any.ts';
import type { Timestamp } from '../proto/gen/google/protobuf/timestamp.ts';
import type { Services } from './connection.ts';
import type { CallOptions } from './stub.ts';

export interface Event {
  /** Its number in the daemon's log, to go on from; 0 when the daemon keeps none, as containerd. */
  sequence: number;
  timestamp: Timestamp;
  namespace: string;
  topic: string;
  /** Bare type name and bytes, as published. */
  event: Any | undefined;
  /** The message, when its type is known. */
  message: Record<string, unknown> | undefined;
}

export interface SubscribeOptions extends CallOptions {
  /**
   * Number of the last event seen: those that came later come first, then live ones, without a gap. 0 begins with the
   * first ever, `oldest` with the first that is kept. `out-of-range` when some are gone. A daemon that keeps no log
   * begins with live events.
   */
  after?: EventPosition | undefined;
}

export interface Events {
  /** Events of all namespaces from now on; filters are alternatives, such as `topic~="^/tasks/"`. */
  subscribe(filters?: readonly string[], options?: SubscribeOptions): AsyncIterableIterator<Event>;
  publish(topic: string, event: Any, options?: CallOptions): Promise<void>;
}

interface MessageType {
  $type: string;
  decode(bytes: Uint8Array): unknown;
}

export function eventsClient(services: Services): Events {
  const types = eventTypes();
  return {
    subscribe(filters = [], { after, ...options } = {}) {
      const headers =
        after === undefined ? options.headers : { ...options.headers, [eventsAfterHeader]: String(after) };
      const envelopes = services.events.subscribe({ filters: [...filters] }, { ...options, headers });
      return (async function* () {
        for await (const envelope of envelopes) {
          const { timestamp, namespace, topic, event } = envelope;
          const type = event === undefined ? undefined : types.get(event.typeUrl);
          yield {
            sequence: sequenceOfEnvelope(envelope),
            timestamp: timestamp ?? goZeroTime,
            ...{ namespace, topic, event },
            message: type === undefined || event === undefined ? undefined : decode(type, event.value),
          };
        }
      })();
    },
    async publish(topic, event, options) {
      await services.events.publish({ topic, event }, options);
    },
  };
}

function eventTypes(): Map<string, MessageType> {
  const types = new Map<string, MessageType>();
  for (const module of [container, content, image, namespace, sandbox, snapshot, task]) {
    for (const value of Object.values(module) as unknown[]) {
      if (typeof value === 'object' && value !== null && '$type' in value && 'decode' in value) {
        types.set((value as MessageType).$type, value as MessageType);
      }
    }
  }
  return types;
}

/** An event that its publisher garbled is still an event. */
function decode(type: MessageType, bytes: Uint8Array): Record<string, unknown> | undefined {
  try {
    const { _unknownFields, ...message } = type.decode(bytes) as Record<string, unknown>;
    return message;
  } catch {
    return undefined;
  }
}
