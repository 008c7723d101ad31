// Reads /proc/self/mountinfo (proc_pid_mountinfo(5)).
import type { MountInfo } from '../../api/model/ports/sys.ts';

/** Parses the whole file; lines that are not of the documented form are left out. */
export function parseMountInfo(text: string): MountInfo[] {
  const mounts: MountInfo[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    const dash = fields.indexOf('-', 6);
    const [id, parentId, device, root, mountPoint, options] = fields;
    if (dash < 0 || options === undefined || device === undefined) continue;
    const colon = device.indexOf(':');
    mounts.push({
      id: Number(id),
      parentId: Number(parentId),
      major: Number(device.slice(0, colon)),
      minor: Number(device.slice(colon + 1)),
      root: unescapeOctal(root ?? ''),
      mountPoint: unescapeOctal(mountPoint ?? ''),
      options,
      optional: fields.slice(6, dash),
      type: fields[dash + 1] ?? '',
      source: unescapeOctal(fields[dash + 2] ?? ''),
      superOptions: fields[dash + 3] ?? '',
    });
  }
  return mounts;
}

/** The kernel writes blank, tab, newline and backslash as three octal digits. */
function unescapeOctal(text: string): string {
  if (!text.includes('\\')) return text;
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** The mounts on or below `path` (absolute, no trailing slash), the one mounted last first. */
export function mountsUnder(mounts: readonly MountInfo[], path: string): MountInfo[] {
  const prefix = path === '/' ? '/' : `${path}/`;
  return mounts.filter((m) => m.mountPoint === path || m.mountPoint.startsWith(prefix)).reverse();
}
