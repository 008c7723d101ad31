// What filters see of an event: namespace, topic, and below `event` the fields of the event types that are known here.
import { type FieldLookup, mapEntry, nonEmpty } from '../../api/model/filter.ts';
import * as container from '../../api/proto/gen/events/container.ts';
import * as content from '../../api/proto/gen/events/content.ts';
import * as image from '../../api/proto/gen/events/image.ts';
import * as namespace from '../../api/proto/gen/events/namespace.ts';
import * as sandbox from '../../api/proto/gen/events/sandbox.ts';
import * as snapshot from '../../api/proto/gen/events/snapshot.ts';
import * as task from '../../api/proto/gen/events/task.ts';
import type { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import type { PublishedEvent } from './protocol.ts';

interface EventType {
  readonly $type: string;
  decode(bytes: Uint8Array): object;
}

const eventTypes: readonly EventType[] = [
  container.ContainerCreate,
  container.ContainerUpdate,
  container.ContainerDelete,
  content.ContentCreate,
  content.ContentDelete,
  image.ImageCreate,
  image.ImageUpdate,
  image.ImageDelete,
  namespace.NamespaceCreate,
  namespace.NamespaceUpdate,
  namespace.NamespaceDelete,
  sandbox.SandboxCreate,
  sandbox.SandboxStart,
  sandbox.SandboxExit,
  snapshot.SnapshotPrepare,
  snapshot.SnapshotCommit,
  snapshot.SnapshotRemove,
  task.TaskCreate,
  task.TaskStart,
  task.TaskDelete,
  task.TaskExit,
  task.TaskOOM,
  task.TaskExecAdded,
  task.TaskExecStarted,
  task.TaskPaused,
  task.TaskResumed,
  task.TaskCheckpointed,
];

const typesByName: ReadonlyMap<string, EventType> = new Map(eventTypes.map((type) => [type.$type, type]));

/** The look-up of one event. The payload is decoded once, and only if some filter asks for it. */
export function lookupOf(event: PublishedEvent): FieldLookup {
  let payload: object | undefined;
  let decoded = false;
  return (path) => {
    switch (path[0]) {
      case 'namespace':
        return nonEmpty(event.envelope.namespace);
      case 'topic':
        return nonEmpty(event.envelope.topic);
      case 'event':
        if (!decoded) {
          decoded = true;
          payload = decodePayload(event.envelope.event);
        }
        return payload === undefined ? undefined : fieldOf(payload, path.slice(1));
      default:
        return undefined;
    }
  };
}

function decodePayload(any: Any | undefined): object | undefined {
  if (any === undefined) return undefined;
  const type = typesByName.get(any.typeUrl.slice(any.typeUrl.lastIndexOf('/') + 1));
  try {
    return type?.decode(any.value);
  } catch {
    // A publisher's broken payload has no fields; whoever reads the event sees the bytes.
    return undefined;
  }
}

/** Strings, entries of string maps, and nested messages answer; numbers, times and lists do not. */
function fieldOf(message: object, path: readonly string[]): string | undefined {
  const [name, ...rest] = path;
  if (name === undefined || !/^[a-z][a-z0-9_]*$/.test(name)) return undefined;
  const key = name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
  if (!Object.hasOwn(message, key)) return undefined;
  const value: unknown = message[key as keyof typeof message];
  if (typeof value === 'string') return rest.length === 0 ? nonEmpty(value) : undefined;
  if (value instanceof Map) return mapEntry(value, path);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  return fieldOf(value, rest);
}
