// The fifo `log` of a bundle: what the shim writes there becomes lines of the daemon's log.
import { chmodSync, close, constants, lstatSync, open } from 'node:fs';
import { Socket } from 'node:net';
import { promisify } from 'node:util';

const openFile = promisify(open);
const closeFile = promisify(close);
/** A longer line is passed on in pieces. */
const lineBytesMax = 16 * 1024;

/** Cuts what arrives into lines, without their ends; empty lines are dropped. */
export class LineSplitter {
  readonly #emit: (line: string) => void;
  #rest = Buffer.alloc(0);

  constructor(emit: (line: string) => void) {
    this.#emit = emit;
  }

  push(chunk: Uint8Array): void {
    let data = this.#rest.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#rest, chunk]);
    for (;;) {
      const end = data.indexOf(0x0a);
      if (end < 0 && data.length < lineBytesMax) break;
      const length = end < 0 || end > lineBytesMax ? lineBytesMax : end;
      const line = data.toString('utf8', 0, length).trimEnd();
      if (line !== '') this.#emit(line);
      data = data.subarray(length === end ? end + 1 : length);
    }
    this.#rest = data;
  }

  flush(): void {
    const line = this.#rest.toString('utf8').trimEnd();
    this.#rest = Buffer.alloc(0);
    if (line !== '') this.#emit(line);
  }
}

/** Makes the fifo; one that is there is left as it is. */
export async function makeLog(path: string, makeFifo: (path: string, mode: number) => void): Promise<void> {
  if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) return;
  makeFifo(path, 0o700);
  chmodSync(path, 0o700);
}

/**
 * Opens the fifo for reading and writing: the writing end that nobody uses keeps it from ending when a shim leaves.
 * Where there is none, there is nothing to copy.
 */
export async function copyLog(path: string, onLine: (line: string) => void): Promise<{ close(): void }> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return { close() {} };
  const fd = await openFile(path, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW);
  if (!found.isFIFO()) {
    await closeFile(fd);
    throw Object.assign(new Error(`${path} is no fifo`), { code: 'unknown' });
  }
  const lines = new LineSplitter(onLine);
  const reader = new Socket({ fd, readable: true, writable: false });
  reader.unref();
  reader.on('data', (chunk: Buffer) => lines.push(chunk));
  reader.on('error', (error) => onLine(`log of the shim is lost: ${error.message}`));
  reader.on('close', () => lines.flush());
  return { close: () => void reader.destroy() };
}
