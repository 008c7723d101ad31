// Where the daemon performs mounts for its clients, as a port: io/mounts does it, tests hand in a fake.
import type { Mount } from '../../proto/gen/types/mount.ts';

/** What is done for an activation, one after another. */
export type MountStep =
  | {
      readonly kind: 'directory';
      readonly path: string;
      readonly mode: number;
      readonly owner: Owner | undefined;
    }
  | {
      readonly kind: 'filesystem';
      /** The image file; one that exists is used as it is. */
      readonly path: string;
      readonly type: FilesystemType;
      readonly sizeBytes: number;
      readonly uuid: string | undefined;
    }
  /** Mounts all on mount point `point` of the activation. */
  | { readonly kind: 'mount'; readonly mounts: readonly Mount[]; readonly point: number };

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

export const filesystemTypes = ['ext2', 'ext3', 'ext4', 'xfs'] as const;
export type FilesystemType = (typeof filesystemTypes)[number];

/** The mount points of activations, each activation a directory by its number. */
export interface MountPoints {
  pathOf(id: number, point: number): string;
  /** Does the steps; what was done before a failure stays for `clear`. */
  perform(id: number, steps: readonly MountStep[], signal: AbortSignal): Promise<void>;
  /** Unmounts what `id` has mounted, the last first, and removes its directories. Fine when there is nothing. */
  clear(id: number): Promise<void>;
  /** Whether everything on these mount points is mounted still: a reboot leaves directories alone. */
  isMounted(id: number, points: readonly string[]): boolean;
  /** Numbers that have a directory. */
  ids(): number[];
}
