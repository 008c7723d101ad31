// The directory of shim sockets: as configured, else for those who are not root the first of their own that works.
import { lstatSync, mkdirSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { fail } from '../../api/model/errors.ts';

/** With a digest as name it has to fit into a socket address (unix(7)). */
const socketDirBytesMax = 42;
const systemDir = '/run/containerd/s';

export function checkSocketDir(directory: string): string {
  if (isAbsolute(directory) && Buffer.byteLength(directory) <= socketDirBytesMax) return directory;
  throw fail(
    'invalid-argument',
    `config: socket_dir must be an absolute path of at most ${socketDirBytesMax} bytes, not "${directory}"`,
  );
}

/** Undefined: the one that shims choose themselves. */
export function socketDirFor(uid: number, env: NodeJS.ProcessEnv): string | undefined {
  if (uid === 0) return undefined;
  const runtimeDir = env['XDG_RUNTIME_DIR'];
  const candidates = [
    systemDir,
    ...(runtimeDir === undefined || runtimeDir === '' ? [] : [join(runtimeDir, 'containerd/s')]),
    `/run/${uid}/containerd/s`,
    `/tmp/containerd-s-${uid}`,
  ];
  return candidates.find((path) => Buffer.byteLength(path) <= socketDirBytesMax && isOwn(path, uid));
}

/** Made if it is missing; somebody else's directory is no place for sockets. */
function isOwn(path: string, uid: number): boolean {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    const found = lstatSync(path);
    return found.isDirectory() && found.uid === uid && (found.mode & 0o077) === 0;
  } catch {
    return false;
  }
}
