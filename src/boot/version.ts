// The version that the daemon answers with, and the source revision that it was made from.
import { readFileSync } from 'node:fs';

export interface Version {
  version: string;
  /** A commit hash, or empty where none is known. */
  revision: string;
}

/** `root` is the directory of the checkout or package, with a slash at its end. */
export function readVersion(root: URL): Version {
  const { version } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8')) as { version: string };
  return { version: `v${version}`, revision: checkedOutRevision(root) ?? packedRevision(root) ?? '' };
}

function readIfThere(url: URL): string | undefined {
  try {
    return readFileSync(url, 'utf8').trim();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
}

/** Written when a package is built. */
function packedRevision(root: URL): string | undefined {
  return readIfThere(new URL('dist/REVISION', root));
}

function checkedOutRevision(root: URL): string | undefined {
  const head = readIfThere(new URL('.git/HEAD', root));
  const ref = head === undefined ? undefined : /^ref: (.+)$/.exec(head)?.[1];
  return ref === undefined ? head : readIfThere(new URL(`.git/${ref}`, root));
}
