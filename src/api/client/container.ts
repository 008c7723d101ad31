// Containers: made from an image with a spec and a snapshot of their own, run as tasks, and removed with both.
import { codeOf, fail, wrap } from '../model/errors.ts';
import { parseContainerId } from '../model/ids.ts';
import { labelBytesMax } from '../model/labels.ts';
import type { Any } from '../proto/gen/google/protobuf/any.ts';
import type { Container as ContainerRecord } from '../proto/gen/services/containers/v1/containers.ts';
import type { Mount } from '../proto/gen/types/mount.ts';
import { Status } from '../proto/gen/types/task/task.ts';
import type { Services } from './connection.ts';
import type { Image } from './image.ts';
import { type IoFactory, nullIo } from './io.ts';
import type { Leases } from './leases.ts';
import { layerDirectories, readRootfsFile } from './rootfs.ts';
import { snapshotsClient } from './snapshots.ts';
import { createSpec, decodeSpec, encodeSpec, type OciSpec, type SpecOptions } from './spec.ts';
import type { CallOptions } from './stub.ts';
import { makeTask, type Task } from './task.ts';
import { type ImageUser, lookUpUser } from './user.ts';

export interface Container {
  readonly id: string;
  /** As it was when this object was made. */
  readonly record: ContainerRecord;
  spec(): OciSpec;
  /** Creates the task; its command runs when it is started. */
  createTask(io?: IoFactory, options?: CallOptions & { runtimeOptions?: Any }): Promise<Task>;
  /** The task that the container has. Its streams belong to whoever made it. Throws `not-found`. */
  task(options?: CallOptions): Promise<Task>;
  /** Ids of a user in this container's image. */
  lookUpUser(user: string, options?: CallOptions): Promise<ImageUser>;
  /** Removes the record and its snapshot. Throws `failed-precondition` while it has a task. */
  delete(options?: CallOptions): Promise<void>;
}

export interface CreateContainerOptions extends CallOptions {
  id: string;
  image: Image;
  spec?: SpecOptions;
  /** `name|uid[:group|gid]` in place of the image's. */
  user?: string;
  snapshotter: string;
  runtime: string;
  runtimeOptions?: Any;
  labels?: ReadonlyMap<string, string>;
}

export interface Containers {
  create(options: CreateContainerOptions): Promise<Container>;
  get(id: string, options?: CallOptions): Promise<Container>;
  list(filters?: readonly string[], options?: CallOptions): Promise<Container[]>;
  /** Tasks of all containers by container id. */
  tasks(options?: CallOptions): Promise<Map<string, { pid: number; status: Status; exitStatus: number }>>;
}

export const stopSignalLabel = 'io.containerd.image.config.stop-signal';
const passwdBytesMax = 4 * 1024 * 1024;

export function containersClient(services: Services, namespace: string, leases: Leases): Containers {
  const make = (record: ContainerRecord): Container => makeContainer(services, record);
  return {
    async create({ id, image, snapshotter, runtime, ...options }) {
      parseContainerId(id);
      const { signal } = options;
      const config = await image.config({ signal });
      // Keeps the snapshot until the container's record does.
      await using lease = await leases.acquire({ signal });
      const call: CallOptions = { signal, lease: lease.id };
      if (!(await image.isUnpacked(snapshotter, call))) await image.unpack(snapshotter, call);
      const snapshots = snapshotsClient(services, snapshotter);
      const mounts = await snapshots.prepare(id, await image.chainId(call), call).catch((error: unknown) => {
        throw wrap(`container ${id}`, error);
      });
      try {
        const user = await lookUpUser(options.user ?? config.config.user, imageFiles(mounts));
        const spec = createSpec({ namespace, id, config, user, options: options.spec ?? {} });
        // An image's own labels must neither steer the collector nor be too long to be stored.
        const kept = [...config.config.labels].filter(
          ([key, value]) =>
            !key.startsWith('containerd.io/') &&
            Buffer.byteLength(key) + Buffer.byteLength(value) <= labelBytesMax,
        );
        const labels = new Map(kept);
        if (config.config.stopSignal !== '') labels.set(stopSignalLabel, config.config.stopSignal);
        for (const [key, value] of options.labels ?? []) labels.set(key, value);
        const { container } = await services.containers.create(
          {
            container: {
              ...{ id, image: image.name, snapshotter, snapshotKey: id, labels, spec: encodeSpec(spec) },
              runtime: { name: runtime, options: options.runtimeOptions },
            },
          },
          call,
        );
        if (container === undefined) throw fail('internal', `container ${id}: the server answers without it`);
        return make(container);
      } catch (error) {
        await snapshots.remove(id).catch((removal: unknown) => {
          if (codeOf(removal) !== 'not-found') throw new AggregateError([error, removal], `container ${id}`);
        });
        throw error;
      }
    },
    async get(id, options) {
      const { container } = await services.containers.get({ id }, options);
      if (container === undefined) throw fail('not-found', `container ${id}`);
      return make(container);
    },
    async list(filters = [], options) {
      const request = { filters: [...filters] };
      try {
        const found: Container[] = [];
        for await (const { container } of services.containers.listStream(request, options)) {
          if (container !== undefined) found.push(make(container));
        }
        return found;
      } catch (error) {
        if (codeOf(error) !== 'unimplemented') throw error;
        return (await services.containers.list(request, options)).containers.map(make);
      }
    },
    async tasks(options) {
      const { tasks } = await services.tasks.list({ filter: '' }, options);
      return new Map(tasks.map(({ id, pid, status, exitStatus }) => [id, { pid, status, exitStatus }]));
    },
  };
}

function imageFiles(mounts: readonly Mount[]): (path: string) => Promise<string | undefined> {
  const directories = layerDirectories(mounts);
  return async (path) =>
    directories === undefined ? undefined : readRootfsFile(directories, path, passwdBytesMax);
}

function makeContainer(services: Services, record: ContainerRecord): Container {
  const { id, snapshotter, snapshotKey } = record;
  const mounts = async (options?: CallOptions): Promise<Mount[]> =>
    snapshotKey === '' ? [] : snapshotsClient(services, snapshotter).mounts(snapshotKey, options);
  const self: Container = {
    id,
    record,
    spec: () => decodeSpec(record.spec, id),
    async createTask(factory = nullIo, { runtimeOptions, ...options } = {}) {
      const rootfs = await mounts(options);
      const io = await factory(id, self.spec().process.terminal ?? false);
      try {
        const { pid } = await services.tasks.create(
          { containerId: id, rootfs, ...io.addresses, options: runtimeOptions },
          options,
        );
        return makeTask(services, { containerId: id, execId: '', pid, io });
      } catch (error) {
        await io.close();
        throw error;
      }
    },
    async task(options) {
      const { process } = await services.tasks.get({ containerId: id }, options);
      return makeTask(services, { containerId: id, execId: '', pid: process?.pid ?? 0, io: undefined });
    },
    async lookUpUser(user, options) {
      return lookUpUser(user, imageFiles(await mounts(options)));
    },
    async delete(options) {
      const task = await services.tasks.get({ containerId: id }, options).catch(() => undefined);
      if (task !== undefined) {
        const status = task.process?.status === Status.RUNNING ? 'running' : 'existing';
        throw fail('failed-precondition', `container ${id}: cannot delete it with a ${status} task`);
      }
      if (snapshotKey !== '') {
        await snapshotsClient(services, snapshotter)
          .remove(snapshotKey, options)
          .catch((error: unknown) => {
            if (codeOf(error) !== 'not-found') throw error;
          });
      }
      await services.containers.delete({ id }, options);
    },
  };
  return self;
}
