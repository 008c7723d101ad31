// A connection to a daemon's socket and the stubs of all the services that the client uses.
import * as grpc from '@grpc/grpc-js';
import { parseNamespace } from '../model/ids.ts';
import { ContainersDefinition } from '../proto/gen/services/containers/v1/containers.ts';
import { ContentDefinition } from '../proto/gen/services/content/v1/content.ts';
import { DiffDefinition } from '../proto/gen/services/diff/v1/diff.ts';
import { EventsDefinition } from '../proto/gen/services/events/v1/events.ts';
import { ImagesDefinition } from '../proto/gen/services/images/v1/images.ts';
import { IntrospectionDefinition } from '../proto/gen/services/introspection/v1/introspection.ts';
import { LeasesDefinition } from '../proto/gen/services/leases/v1/leases.ts';
import { NamespacesDefinition } from '../proto/gen/services/namespaces/v1/namespace.ts';
import { SnapshotsDefinition } from '../proto/gen/services/snapshots/v1/snapshots.ts';
import { StreamingDefinition } from '../proto/gen/services/streaming/v1/streaming.ts';
import { TasksDefinition } from '../proto/gen/services/tasks/v1/tasks.ts';
import { TransferDefinition } from '../proto/gen/services/transfer/v1/transfer.ts';
import { VersionDefinition } from '../proto/gen/services/version/v1/version.ts';
import { makeStub, type Stub } from './stub.ts';

export const messageBytesMax = 16 * 1024 * 1024;
const windowBytes = 4 * 1024 * 1024;

export interface Services {
  readonly containers: Stub<typeof ContainersDefinition>;
  readonly content: Stub<typeof ContentDefinition>;
  readonly diff: Stub<typeof DiffDefinition>;
  readonly events: Stub<typeof EventsDefinition>;
  readonly images: Stub<typeof ImagesDefinition>;
  readonly introspection: Stub<typeof IntrospectionDefinition>;
  readonly leases: Stub<typeof LeasesDefinition>;
  readonly namespaces: Stub<typeof NamespacesDefinition>;
  readonly snapshots: Stub<typeof SnapshotsDefinition>;
  readonly streaming: Stub<typeof StreamingDefinition>;
  readonly tasks: Stub<typeof TasksDefinition>;
  readonly transfer: Stub<typeof TransferDefinition>;
  readonly version: Stub<typeof VersionDefinition>;
}

export interface Connection extends Disposable {
  readonly address: string;
  readonly namespace: string;
  readonly services: Services;
}

/** `address` is a socket path or a `unix://` URL. Connects when the first call is made. */
export function connect(address: string, namespace: string): Connection {
  parseNamespace(namespace);
  const path = address.startsWith('unix://') ? address.slice('unix://'.length) : address;
  const client = new grpc.Client(`unix:${path}`, grpc.credentials.createInsecure(), {
    'grpc.max_receive_message_length': messageBytesMax,
    'grpc.max_send_message_length': messageBytesMax,
    'grpc-node.flow_control_window': windowBytes,
    'grpc.enable_http_proxy': 0,
    // A client's connection is its own: another client of the same socket must not share its fate.
    'grpc.use_local_subchannel_pool': 1,
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 2000,
  });
  const channel = { client, namespace, reached: false };
  return {
    address: path,
    namespace,
    services: {
      containers: makeStub(ContainersDefinition, channel),
      content: makeStub(ContentDefinition, channel),
      diff: makeStub(DiffDefinition, channel),
      events: makeStub(EventsDefinition, channel),
      images: makeStub(ImagesDefinition, channel),
      introspection: makeStub(IntrospectionDefinition, channel),
      leases: makeStub(LeasesDefinition, channel),
      namespaces: makeStub(NamespacesDefinition, channel),
      snapshots: makeStub(SnapshotsDefinition, channel),
      streaming: makeStub(StreamingDefinition, channel),
      tasks: makeStub(TasksDefinition, channel),
      transfer: makeStub(TransferDefinition, channel),
      version: makeStub(VersionDefinition, channel),
    },
    [Symbol.dispose]: () => client.close(),
  };
}
