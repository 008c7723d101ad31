// Jobs that the pool's tests run.
import { threadId } from 'node:worker_threads';
import type { JobContext } from '../../../src/supervisor/pool.ts';

export async function add(data: { a: number; b: number }): Promise<number> {
  return data.a + data.b;
}

export async function whichThread(_: null): Promise<number> {
  return threadId;
}

export async function refuse(data: { code: string; message: string }): Promise<never> {
  throw Object.assign(
    new Error(data.message, { cause: Object.assign(new Error('below'), { code: 'ENOSPC' }) }),
    {
      code: data.code,
    },
  );
}

/** Ends once aborted, by event. */
export async function untilAborted(flag: Int32Array | null, context: JobContext): Promise<never> {
  if (flag !== null) raise(flag);
  return await new Promise((_resolve, reject) => {
    const keepAlive = setInterval(() => {}, 1000);
    context.signal.addEventListener('abort', () => {
      clearInterval(keepAlive);
      reject(context.signal.reason);
    });
  });
}

/** Tells through `flag` that it runs, then holds the thread until told to stop, without any event. */
export async function spinUntilAborted(flag: Int32Array, context: JobContext): Promise<never> {
  raise(flag);
  for (;;) context.throwIfAborted();
}

/** Never listens. */
export async function spinForEver(flag: Int32Array): Promise<never> {
  raise(flag);
  for (;;) Atomics.add(flag, 1, 1);
}

export async function exit(_: null): Promise<void> {
  process.exit(3);
}

export async function throwLater(_: null): Promise<void> {
  setImmediate(() => {
    throw new Error('nobody caught me');
  });
  await new Promise(() => setInterval(() => {}, 1000));
}

export async function unclonable(_: null): Promise<() => void> {
  return () => {};
}

export async function double(data: Uint8Array<ArrayBuffer>, context: JobContext): Promise<Uint8Array> {
  const result = data.map((byte) => byte * 2);
  context.transfer(result.buffer);
  return result;
}

/** Waits for `flag` to be raised by the test. */
export async function waitFor(flag: Int32Array): Promise<void> {
  Atomics.wait(flag, 0, 0);
}

export async function hog(_: null): Promise<number> {
  const kept: unknown[] = [];
  for (;;) kept.push(new Array(100_000).fill({}));
}

function raise(flag: Int32Array): void {
  Atomics.store(flag, 0, 1);
  Atomics.notify(flag, 0);
}
