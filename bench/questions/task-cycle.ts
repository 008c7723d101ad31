// How long a container that runs `true` takes: prepare, create, start, wait and delete over gRPC, one after another.
import { ContainersDefinition } from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import { SnapshotsDefinition } from '../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import { TasksDefinition } from '../../src/api/proto/gen/services/tasks/v1/tasks.ts';
import { type Daemon, startDaemon } from '../../test/fixtures/daemon.ts';
import type { GrpcClient } from '../../test/fixtures/grpc.ts';
import { busyboxImage } from '../../test/fixtures/image.ts';
import { startRegistry } from '../../test/fixtures/registry.ts';
import { daemonOf, kinds, median, mediums, parentOf, type Question } from '../harness.ts';
import { container } from '../requests.ts';

const snapshotter = 'overlayfs';
// Until the container refers to it, nothing else would keep the snapshot from a collection.
const labels = new Map([['containerd.io/gc.root', 'bench']]);

/** One container from nothing to nothing; the milliseconds of each step and of the whole. */
async function cycle(
  daemon: Daemon,
  client: GrpcClient,
  id: string,
  parent: string,
): Promise<Record<string, number>> {
  const options = { namespace: daemon.namespace };
  const times: Record<string, number> = {};
  const began = performance.now();
  const step = async <T>(name: string, work: Promise<T>): Promise<T> => {
    const before = performance.now();
    const value = await work;
    times[name] = performance.now() - before;
    return value;
  };
  const containerId = id;
  const { mounts } = await step(
    'prepare',
    client.call(SnapshotsDefinition, 'prepare', { snapshotter, key: id, parent, labels }, options),
  );
  const record = container(id, ['true'], `/${daemon.namespace}/${id}`);
  await step('container create', client.call(ContainersDefinition, 'create', { container: record }, options));
  await step('task create', client.call(TasksDefinition, 'create', { containerId, rootfs: mounts }, options));
  const waiting = client.call(TasksDefinition, 'wait', { containerId }, options);
  await step('task start', client.call(TasksDefinition, 'start', { containerId }, options));
  const { exitStatus } = await step('task wait', waiting);
  if (exitStatus !== 0) throw new Error(`${daemon.kind}: ${id} exited with ${exitStatus}`);
  await step('task delete', client.call(TasksDefinition, 'delete', { containerId }, options));
  await step('container delete', client.call(ContainersDefinition, 'delete', { id }, options));
  await step(
    'snapshot remove',
    client.call(SnapshotsDefinition, 'remove', { snapshotter, key: id }, options),
  );
  times['whole'] = performance.now() - began;
  return times;
}

export const question: Question = {
  name: 'task-cycle',
  asks: 'One container after another over gRPC: Snapshots.Prepare, Containers.Create, Tasks.Create, Start, Wait, Delete of `true` from a busybox image, then the records are deleted. Medians; both daemons use the same shim and runc.',
  async run(bench) {
    await using registry = await startRegistry('/dev/shm');
    const image = await busyboxImage();
    const ref = await registry.push(image, 'library/busybox', 'latest');
    // A single layer: its chain ID is its diff ID.
    const parent = image.manifests[0]!.layers[0]!.diffId;
    for (const medium of mediums) {
      await using stack = new AsyncDisposableStack();
      const daemons: Daemon[] = [];
      for (const kind of kinds) {
        const daemon = stack.use(await startDaemon(kind, { parent: parentOf(medium) }));
        await daemon.ctrOk(['images', 'pull', '--plain-http', ref]);
        daemons.push(daemon);
      }
      const cycleCount = bench.quick ? 5 : 15;
      const roundCount = bench.quick ? 3 : 7;
      await bench.alternate({ medium, unit: 'ms', better: 'lower', roundCount }, async (kind, round) => {
        const daemon = daemonOf(daemons, kind);
        using client = daemon.grpc();
        const all: Record<string, number>[] = [];
        for (let index = 0; index < cycleCount; index++) {
          all.push(await cycle(daemon, client, `c${round}-${index}`, parent));
        }
        return Object.fromEntries(
          Object.keys(all[0]!).map((name) => [name, median(all.map((times) => times[name]!))]),
        );
      });
    }
  },
};
