// Who this daemon is: a UUID for its root, and the PID namespace that its numbers count in.
import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, readlinkSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const uuidPattern = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The UUID kept in `directory`; made, version 4, when there is none yet. */
export function persistedUuid(directory: string): string {
  const path = join(directory, 'uuid');
  try {
    const uuid = readFileSync(path, 'utf8').trim();
    if (uuidPattern.test(uuid)) return uuid;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const uuid = randomUUID();
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  writeFileSync(`${path}.new`, uuid, { mode: 0o600 });
  renameSync(`${path}.new`, path);
  return uuid;
}

/** Inode of the PID namespace (pid_namespaces(7)). */
export function pidNamespace(): bigint {
  const m = /^pid:\[(\d+)\]$/.exec(readlinkSync('/proc/self/ns/pid'));
  return BigInt(m?.[1] ?? 0);
}
