// Checkpoints of tasks as content: how images of processes get into and out of the content store.
import type { Any } from '../../proto/gen/google/protobuf/any.ts';
import type { Descriptor } from '../../proto/gen/types/descriptor.ts';
import type { Namespace } from '../ids.ts';

export const checkpointMediaType = {
  /** A tar of the images that criu wrote. */
  images: 'application/vnd.containerd.container.criu.checkpoint.criu.tar',
  /** The container's spec as an encoded Any. */
  config: 'application/vnd.containerd.container.checkpoint.config.v1+proto',
} as const;

export interface CheckpointDirectory extends AsyncDisposable {
  readonly path: string;
}

export interface CheckpointStore {
  /** An empty directory that is removed when disposed of. */
  directory(): Promise<CheckpointDirectory>;
  /** Unpacks images into a directory; `not-found` when the namespace has no such content. */
  unpack(namespace: Namespace, descriptor: Descriptor): Promise<CheckpointDirectory>;
  /** Stores the images in `path`, and the spec; their two descriptors, in that order. */
  store(
    namespace: Namespace,
    request: { path: string; spec: Any | undefined; lease: string | undefined },
  ): Promise<Descriptor[]>;
}
