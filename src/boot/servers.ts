// The faces of the daemon: the gRPC server with all services, and the ttrpc server that shims send events to.
import { join } from 'node:path';
import type { ContentStore } from '../actors/content/protocol.ts';
import type { EventExchange } from '../actors/events/protocol.ts';
import type { GcProtocol } from '../actors/gc/protocol.ts';
import type { MetadataProtocol, MetadataReader } from '../actors/metadata/protocol.ts';
import { type SnapshotProtocol, snapshotPath } from '../actors/snapshot/protocol.ts';
import type { Tasks } from '../actors/task/protocol.ts';
import type { BoundService } from '../api/grpc/bind.ts';
import { containersService } from '../api/grpc/containers.ts';
import { contentService } from '../api/grpc/content.ts';
import type { Collect } from '../api/grpc/deps.ts';
import { eventsService } from '../api/grpc/events.ts';
import { healthService } from '../api/grpc/health.ts';
import { imagesService } from '../api/grpc/images.ts';
import { introspectionService } from '../api/grpc/introspection.ts';
import { leasesService } from '../api/grpc/leases.ts';
import { namespacesService } from '../api/grpc/namespaces.ts';
import { sandboxStoreService } from '../api/grpc/sandboxes.ts';
import { createGrpcServer } from '../api/grpc/server.ts';
import { snapshotsService } from '../api/grpc/snapshots.ts';
import { tasksService } from '../api/grpc/tasks.ts';
import { versionService } from '../api/grpc/version.ts';
import type { Clock } from '../api/model/time.ts';
import { createCheckpointStore } from '../io/runtime/checkpoint.ts';
import type { ActorSystem } from '../supervisor/system.ts';
import type { ActorRef } from '../supervisor/types.ts';
import { persistedUuid, pidNamespace } from './identity.ts';
import { listPlugins } from './plugins.ts';
import type { OpenedSnapshotters } from './snapshotters.ts';
import type { TreeDeps } from './tree.ts';

export interface ServerDeps extends TreeDeps {
  system: ActorSystem;
  exchange: EventExchange;
  metadata: ActorRef<MetadataProtocol>;
  reader: MetadataReader;
  gc: ActorRef<GcProtocol>;
  backends: OpenedSnapshotters;
  clock: Clock;
  content: ContentStore;
  tasks: Tasks;
}

export interface Servers {
  close(drainMs: number): Promise<void>;
}

export async function startServers(deps: ServerDeps): Promise<Servers> {
  const { config, version, log, directories, system, exchange, metadata, reader, gc, backends, clock } = deps;
  const { content, tasks } = deps;
  const collect: Collect = async (signal) => {
    await gc.call('collect', {}, { signal, deadlineMs: Number.POSITIVE_INFINITY });
  };
  const snapshotters = new Map(
    backends.loaded.map(({ backend }) => [
      backend.name,
      {
        actor: system.ref<SnapshotProtocol>(snapshotPath(backend.name)),
        ownLabels: (id: number) => backend.ownLabels(id),
      },
    ]),
  );
  const withRecords = { metadata, reader };
  const services: BoundService[] = [
    versionService(version),
    healthService(),
    namespacesService(withRecords),
    containersService(withRecords),
    imagesService({ ...withRecords, collect }),
    leasesService({ ...withRecords, collect }),
    sandboxStoreService(withRecords),
    contentService({ ...withRecords, content }),
    tasksService({
      tasks,
      container: (namespace, id) => reader.container(namespace, id),
      checkpoints: createCheckpointStore({ content, directory: join(directories.root, 'checkpoints') }),
      nowNs: () => clock.nowNs(),
    }),
    snapshotsService({ ...withRecords, snapshotters }),
    eventsService({ exchange, clock }),
  ];
  const names = services.map(({ fullName }) => (fullName.split('.').at(-1) as string).toLowerCase());
  const plugins = listPlugins(directories, backends, [...names, 'introspection']);
  services.push(
    introspectionService({
      plugins: () => plugins,
      infoProviders: new Map(),
      uuid: persistedUuid(directories.plugin('io.containerd.grpc.v1', 'introspection')),
      pidns: pidNamespace(),
      deprecations: () => [],
    }),
  );
  const grpc = createGrpcServer({
    services,
    receiveBytesMax: config.grpc.maxRecvMessageBytes,
    sendBytesMax: config.grpc.maxSendMessageBytes,
    onUnexpected: (error, path) => log.error(`${path} failed unexpectedly`, { error }),
  });
  await grpc.listen({ path: config.grpc.address, uid: config.grpc.uid, gid: config.grpc.gid });
  return { close: (drainMs) => grpc.close(drainMs) };
}
