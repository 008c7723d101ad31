// The directories of a daemon: made with the modes that keep others out, and locked against a second daemon.
import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Sys } from '../api/model/ports/sys.ts';
import { acquireFileLock, type FileLock } from '../io/sys/lock.ts';

export interface Directories {
  readonly root: string;
  readonly state: string;
  readonly metadata: string;
  readonly content: string;
  readonly tempMounts: string;
  readonly lock: FileLock;
  /** Where the durable data of a plugin lives: `<root>/<type>.<id>`. */
  plugin(type: string, id: string): string;
}

/** The LMDB environment below a root. */
export function metadataDirectory(root: string): string {
  return join(root, 'io.troupe.metadata.v1.lmdb');
}

/** The blob store below a root. */
export function contentDirectory(root: string): string {
  return join(root, 'io.containerd.content.v1.content');
}

/** Modes are set at each start, whatever the directories had. Throws `already-exists` when root is in use. */
export function prepareDirectories(sys: Sys, root: string, state: string): Directories {
  mkdirSync(root, { recursive: true, mode: 0o700 });
  chmodSync(root, 0o700);
  const lock = acquireFileLock(sys, join(root, 'lock'));
  // Others may pass through state: containers with mapped users reach their bundles below it.
  mkdirSync(state, { recursive: true, mode: 0o711 });
  chmodSync(state, 0o711);
  const directories = {
    root,
    state,
    metadata: metadataDirectory(root),
    content: contentDirectory(root),
    tempMounts: join(root, 'tmpmounts'),
    lock,
    plugin: (type: string, id: string) => join(root, `${type}.${id}`),
  };
  mkdirSync(directories.tempMounts, { recursive: true, mode: 0o700 });
  return directories;
}
