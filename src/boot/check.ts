// One check of a root that no daemon uses: records against each other and against the bytes on disk.
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { checkStore, type Problem } from '../actors/metadata/check.ts';
import { keyOf, tables } from '../actors/metadata/schema.ts';
import { fail } from '../api/model/errors.ts';
import type { Digest } from '../api/model/ids.ts';
import type { Sys } from '../api/model/ports/sys.ts';
import { bytesOnDisk } from '../io/check/bytes.ts';
import { openOfflineStore } from '../io/journal/offline.ts';
import { acquireFileLock } from '../io/sys/lock.ts';
import { contentDirectory, metadataDirectory } from './directories.ts';

export interface CheckOptions {
  /** Read every blob through for its digest. */
  digests?: boolean;
  /** Where to write a compacted copy of the metadata store. */
  compactTo?: string;
}

export interface CheckResult {
  problems: Problem[];
  /** Entries of each table. */
  entries: Record<string, number>;
}

/**
 * Checks the root of a daemon. Errors: `not-found` when there is no root or store, `already-exists` when a daemon
 * holds the root, or the copy would overwrite something.
 */
export async function checkRoot(sys: Sys, root: string, options: CheckOptions = {}): Promise<CheckResult> {
  if (!statSync(root, { throwIfNoEntry: false })?.isDirectory()) {
    throw fail('not-found', `${root} is no directory`);
  }
  using _lock = acquireFileLock(sys, join(root, 'lock'));
  const disk = bytesOnDisk(root, contentDirectory(root));
  const store = openOfflineStore({ path: metadataDirectory(root), tables });
  try {
    const { problems, entries } = store.read((txn) => ({
      problems: checkStore(txn, disk),
      entries: Object.fromEntries(
        tables.map((table) => [table, Iterator.from(txn.range(table, {})).reduce((count) => count + 1, 0)]),
      ),
    }));
    if (options.digests === true) {
      // Blobs whose bytes the store still has are not known to be written yet.
      const written = store.read((txn) =>
        disk.blobs().filter((digest) => txn.get('blobs', keyOf(digest)) === undefined),
      );
      problems.push(...wrongBlobs(written, disk.isWhole));
    }
    if (options.compactTo !== undefined) await store.compactTo(options.compactTo);
    return { problems, entries };
  } finally {
    await store.close();
  }
}

function wrongBlobs(digests: readonly Digest[], isWhole: (digest: Digest) => boolean): Problem[] {
  return digests
    .filter((digest) => !isWhole(digest))
    .map((digest) => ({
      severity: 'error',
      subject: `blob ${digest}`,
      message: 'its bytes have another digest',
    }));
}
