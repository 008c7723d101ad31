// The C library's allocator, told to give back what it holds. Only glibc can.
import koffi from 'koffi';

export interface Allocator {
  /** Gives free memory back to the system. */
  trim(): void;
}

export function openAllocator(): Allocator {
  try {
    const libc = koffi.load('libc.so.6');
    const mallocTrim = libc.func('int malloc_trim(size_t)') as unknown as (padBytes: number) => number;
    return { trim: () => void mallocTrim(0) };
  } catch {
    // Another C library, which has no such call and keeps less.
    return { trim() {} };
  }
}
