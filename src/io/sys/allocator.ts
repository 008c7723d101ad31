// The C library's allocator: told to keep large blocks apart and to give back what it holds. Only glibc can.
import koffi from 'koffi';

export interface Allocator {
  /** For the whole process, at its start: large blocks go back to the system as soon as they are free. */
  keepLargeBlocksApart(): void;
  /** Gives free memory back to the system. */
  trim(): void;
}

/** Numbers of mallopt(3). */
const option = { trimThreshold: -1, mmapThreshold: -3 } as const;
/** Left to itself the threshold grows to 32 MB with the first large block that is freed. */
const largeBlockBytes = 512 * 1024;

export function openAllocator(): Allocator {
  try {
    const libc = koffi.load('libc.so.6');
    const mallopt = libc.func('int mallopt(int, int)') as unknown as (name: number, value: number) => number;
    const mallocTrim = libc.func('int malloc_trim(size_t)') as unknown as (padBytes: number) => number;
    return {
      keepLargeBlocksApart() {
        mallopt(option.mmapThreshold, largeBlockBytes);
        mallopt(option.trimThreshold, largeBlockBytes);
      },
      trim: () => void mallocTrim(0),
    };
  } catch {
    // Another C library, which has no such calls and keeps less.
    return { keepLargeBlocksApart() {}, trim() {} };
  }
}
