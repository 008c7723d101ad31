// Small tar files for tests, hostile ones included.
import { encodeEntry, paddingBytes } from '../../../../../src/io/archive/tar-writer.ts';

export interface TarFile {
  /** Directories end in a slash. */
  name: string;
  content?: string | Uint8Array;
  /** Target of a symlink. */
  link?: string;
  hardlink?: string;
}

export function tarOf(files: readonly TarFile[], end = true): Buffer {
  const parts: Uint8Array[] = [];
  for (const { name, content = '', link, hardlink } of files) {
    const bytes = Buffer.from(content as string);
    const type = name.endsWith('/')
      ? 'directory'
      : link !== undefined
        ? 'symlink'
        : hardlink !== undefined
          ? 'hardlink'
          : 'file';
    parts.push(
      encodeEntry({
        ...{ type, name, mode: 0o644, uid: 0, gid: 0, sizeBytes: bytes.length, mtimeSeconds: 0 },
        linkName: link ?? hardlink ?? '',
      }),
      bytes,
      Buffer.alloc(paddingBytes(bytes.length)),
    );
  }
  if (end) parts.push(Buffer.alloc(1024));
  return Buffer.concat(parts);
}
