// A `Sys` for tests of its users: every call not handed in fails the test, mounts are recorded.

import type { MountInfo, Sys } from '../../../../src/api/model/ports/sys.ts';
import { SysError } from '../../../../src/io/sys/errno.ts';

export interface FakeSys extends Sys {
  /** `mount ...` and `umount ...` lines in the order of the calls. */
  readonly calls: string[];
  /** What is mounted now, oldest first. */
  readonly mounted: string[];
}

export const errno = { EPERM: 1, ENOENT: 2, EBUSY: 16, EINVAL: 22 } as const;

/** `failures` maps the first words of a call to the errnos that its next calls fail with. */
export function fakeSys(overrides: Partial<Sys> = {}, failures: Record<string, number[]> = {}): FakeSys {
  const calls: string[] = [];
  const mounted: string[] = [];
  const enter = (line: string): void => {
    calls.push(line);
    for (const [start, errnos] of Object.entries(failures)) {
      const next = line.startsWith(start) ? errnos.shift() : undefined;
      if (next !== undefined) throw new SysError(next, line.split(' ')[0] ?? '', line);
    }
  };
  const fake: Partial<FakeSys> = {
    calls,
    mounted,
    mount(source, target, type, flags, data) {
      enter(`mount ${type || '-'} ${source} ${target} ${flags} ${data}`.trimEnd());
      if ((flags & 32) === 0) mounted.push(target);
    },
    umount(target, flags) {
      enter(`umount ${target} ${flags}`);
      const at = mounted.lastIndexOf(target);
      if (at < 0) throw new SysError(errno.EINVAL, 'umount2', target);
      mounted.splice(at, 1);
    },
    mountInfo: () => mounted.map((mountPoint, id) => ({ id, mountPoint }) as MountInfo),
    ...overrides,
  };
  return new Proxy(fake, {
    get(target, name) {
      const value = Reflect.get(target, name);
      if (value !== undefined || typeof name === 'symbol') return value;
      return () => {
        throw new Error(`the test did not expect ${name}`);
      };
    },
  }) as FakeSys;
}
