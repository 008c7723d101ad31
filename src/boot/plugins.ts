// What introspection shows of this daemon: its parts by the types and ids that containerd's clients ask for.
import { arch } from 'node:process';
import { statusOf } from '../api/grpc/status.ts';
import { Status } from '../api/proto/gen/google/rpc/status.ts';
import { Plugin } from '../api/proto/gen/services/introspection/v1/introspection.ts';
import { Platform } from '../api/proto/gen/types/platform.ts';
import type { Directories } from './directories.ts';
import { type OpenedSnapshotters, snapshotterType } from './snapshotters.ts';

/** The Go names of machine architectures, which image platforms use. */
const goArch: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386' };

export function listPlugins(
  directories: Directories,
  snapshotters: OpenedSnapshotters,
  services: readonly string[],
): Plugin[] {
  const host = Platform.create({ os: 'linux', architecture: goArch[arch] ?? arch });
  const make = (type: string, id: string, more: Partial<Plugin> = {}) => Plugin.create({ type, id, ...more });
  return [
    make('io.containerd.event.v1', 'exchange'),
    make('io.containerd.content.v1', 'content', { exports: new Map([['root', directories.content]]) }),
    ...snapshotters.loaded.map(({ backend }) =>
      make(snapshotterType, backend.name, {
        platforms: [host],
        exports: new Map([['root', backend.root]]),
        capabilities: [...backend.capabilities],
      }),
    ),
    ...snapshotters.failed.map(({ name, error }) => {
      const { code, details } = statusOf(error);
      return make(snapshotterType, name, {
        platforms: [host],
        initErr: Status.create({ code, message: details }),
      });
    }),
    make('io.containerd.metadata.v1', 'bolt', {
      requires: ['io.containerd.event.v1', 'io.containerd.content.v1', snapshotterType],
      exports: new Map([
        ['policy', 'shared'],
        ['path', directories.metadata],
      ]),
    }),
    make('io.containerd.gc.v1', 'scheduler', { requires: ['io.containerd.metadata.v1'] }),
    make('io.containerd.differ.v1', 'walking', {
      requires: ['io.containerd.metadata.v1'],
      platforms: [host],
    }),
    make('io.containerd.runtime.v2', 'task', {
      requires: ['io.containerd.event.v1', 'io.containerd.metadata.v1'],
      platforms: [host],
    }),
    ...services.map((id) => make('io.containerd.grpc.v1', id)),
  ];
}
