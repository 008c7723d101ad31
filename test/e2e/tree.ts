// A file tree as text, everything that a layer can say about a file, so that two trees can be compared.
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../fixtures/process.ts';

/** One line per entry: path, mode with type, owner, size, device, links, time in nanoseconds, content or target. */
export function listTree(root: string): string[] {
  const lines: string[] = [];
  const recentNs = BigInt(Date.now() - 3_600_000) * 1_000_000n;
  const visit = (path: string): void => {
    const full = join(root, path);
    const stat = lstatSync(full, { bigint: true });
    const parts = [
      path === '' ? '/' : path,
      stat.mode.toString(8),
      `${stat.uid}:${stat.gid}`,
      stat.isDirectory() ? '-' : stat.size,
      stat.rdev,
      stat.isDirectory() ? '-' : stat.nlink,
      // A directory that was changed while unpacking or mounting has the time of that.
      stat.isDirectory() && stat.mtimeNs > recentNs ? 'now' : stat.mtimeNs,
    ];
    if (stat.isSymbolicLink()) parts.push(`-> ${readlinkSync(full)}`);
    if (stat.isFile()) parts.push(createHash('sha256').update(readFileSync(full)).digest('hex').slice(0, 16));
    lines.push(parts.join(' '));
    if (stat.isDirectory()) for (const name of readdirSync(full).sort()) visit(join(path, name));
  };
  visit('');
  return lines;
}

/** Digest of a tar of the tree with its extended attributes, which Node cannot read itself. */
export async function tarDigest(root: string): Promise<string> {
  const outcome = await run('bash', [
    '-c',
    'tar --xattrs --xattrs-include="*" --numeric-owner --sort=name --format=posix --mtime=@0 --pax-option=delete=atime,delete=ctime -C "$1" -cf - . | sha256sum',
    'bash',
    root,
  ]);
  if (outcome.code !== 0) throw new Error(outcome.stderr);
  return outcome.stdout.trim();
}
