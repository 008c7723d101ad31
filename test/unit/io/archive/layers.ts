// Helpers of the layer tests: archives from short descriptions, trees as comparable values, scratch directories.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { at, atFdCwd, fileType, mnt, type Sys } from '../../../../src/api/model/ports/sys.ts';
import { type ApplyOptions, LayerApplier } from '../../../../src/io/archive/apply.ts';
import { fromText, pathArg, toText } from '../../../../src/io/archive/bytes.ts';
import { TarReader } from '../../../../src/io/archive/tar-reader.ts';
import { encodeEntry, paddingBytes, type WrittenEntry } from '../../../../src/io/archive/tar-writer.ts';
import { unmountRecursive } from '../../../../src/io/sys/mount.ts';

export interface Entry extends Partial<Omit<WrittenEntry, 'name' | 'linkName'>> {
  name: string;
  linkName?: string;
  content?: string | Buffer;
}

export const file = (name: string, content: string | Buffer = '', more: Partial<Entry> = {}): Entry => ({
  type: 'file',
  name,
  content,
  ...more,
});
export const dir = (name: string, more: Partial<Entry> = {}): Entry => ({
  type: 'directory',
  name: `${name}/`,
  mode: 0o755,
  ...more,
});
export const symlink = (name: string, linkName: string, more: Partial<Entry> = {}): Entry => ({
  type: 'symlink',
  name,
  linkName,
  mode: 0o777,
  ...more,
});
export const link = (name: string, linkName: string, more: Partial<Entry> = {}): Entry => ({
  type: 'hardlink',
  name,
  linkName,
  ...more,
});

export function tarOf(entries: readonly Entry[]): Buffer {
  const parts: Buffer[] = [];
  for (const entry of entries) {
    const content = Buffer.from(entry.content ?? '');
    const { name, linkName = '', content: _, ...rest } = entry;
    parts.push(
      encodeEntry({
        type: 'file',
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtimeSeconds: 1_000_000_000,
        sizeBytes: content.length,
        ...rest,
        name: fromText(name),
        linkName: fromText(linkName),
      }),
      content,
      Buffer.alloc(paddingBytes(content.length)),
    );
  }
  parts.push(Buffer.alloc(1024));
  return Buffer.concat(parts);
}

/** Applies `archive` in pieces of `pieceBytes`; returns the warnings. */
export function applyTar(
  sys: Sys,
  directory: string,
  archive: Buffer,
  options: ApplyOptions = { whiteouts: 'plain' },
  pieceBytes = archive.length || 1,
): string[] {
  using applier = new LayerApplier(sys, directory, options);
  const reader = new TarReader(applier);
  for (let from = 0; from < archive.length; from += pieceBytes) {
    reader.push(archive.subarray(from, from + pieceBytes));
  }
  reader.finish();
  applier.finish();
  return applier.warnings;
}

/** Everything about a tree that a layer carries, by name; hard links show as the group they are in. */
export function snapshotOf(sys: Sys, directory: string, nanos = true): Record<string, unknown> {
  const tree: Record<string, unknown> = {};
  const groups = new Map<string, string>();
  const visit = (fd: number, prefix: string): void => {
    for (const name of sys.readDir(fd).sort()) {
      const stat = sys.statat(fd, pathArg(name), at.symlinkNofollow);
      const type = stat.mode & fileType.mask;
      const full = prefix + name;
      const inode = `${stat.devMajor}:${stat.devMinor}:${stat.inoHigh}:${stat.inoLow}`;
      if (!groups.has(inode)) groups.set(inode, full);
      const named = pathArg(`/proc/self/fd/${fd}/${name}`);
      const xattrs = sys.listxattr(named).filter((xattr) => xattr !== 'security.selinux');
      tree[toText(full)] = {
        mode: stat.mode.toString(8),
        owner: `${stat.uid}:${stat.gid}`,
        mtime: nanos ? `${stat.mtimeSeconds}.${stat.mtimeNanos}` : stat.mtimeSeconds,
        ...(type === fileType.directory ? {} : { group: groups.get(inode), nlink: stat.nlink }),
        ...(type === fileType.regular ? { content: contentOf(fd, name) } : {}),
        ...(type === fileType.symlink
          ? { target: sys.readlinkat(fd, pathArg(name)).toString('latin1') }
          : {}),
        ...(type === fileType.character || type === fileType.block
          ? { device: `${stat.rdevMajor}:${stat.rdevMinor}` }
          : {}),
        ...(xattrs.length === 0
          ? {}
          : { xattrs: xattrs.sort().map((xattr) => [xattr, sys.getxattr(named, xattr)?.toString('hex')]) }),
      };
      if (type !== fileType.directory) continue;
      const child = sys.openat(fd, pathArg(name), fs.constants.O_DIRECTORY | fs.constants.O_NOFOLLOW, 0);
      visit(child, `${full}/`);
      sys.close(child);
    }
  };
  const root = sys.openat(atFdCwd, directory, fs.constants.O_DIRECTORY, 0);
  visit(root, '');
  sys.close(root);
  return tree;
}

function contentOf(fd: number, name: string): string {
  const bytes = fs.readFileSync(
    Buffer.concat([Buffer.from(`/proc/self/fd/${fd}/`), Buffer.from(name, 'latin1')]),
  );
  return bytes.length <= 64 ? bytes.toString('latin1') : createHash('sha256').update(bytes).digest('hex');
}

/** A directory of its own, unmounted and removed at the end whatever happens. */
export async function scoped<T>(sys: Sys, use: (directory: string) => Promise<T> | T): Promise<T> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'troupe-layer-'));
  try {
    return await use(directory);
  } finally {
    await unmountRecursive(sys, directory, mnt.detach);
    fs.rmSync(directory, { recursive: true });
  }
}

export function sub(directory: string, name: string): string {
  const full = path.join(directory, name);
  fs.mkdirSync(full, { recursive: true });
  return full;
}
