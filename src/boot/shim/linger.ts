// When a shim without containers ends: after a while without visitors, and without turning away one who is on the way.
import { rmSync, type Stats, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { hideSocket, type SocketKeeper } from './listening.ts';

export interface Lingerer {
  /** Somebody has come or may come. */
  touch(): void;
  removeSocket(): void;
}

/** Long enough for a connection that was made to be seen here. */
const graceMs = 300;

export function lingerer(given: {
  readonly busy: () => boolean;
  readonly socketPath: string;
  readonly lingerMs: number;
  /** Looks after the socket's file while it is not hidden. */
  readonly keeper: () => SocketKeeper | undefined;
  readonly onEnd: () => void;
}): Lingerer {
  const { busy, socketPath, lingerMs, keeper, onEnd } = given;
  let touchedMs = performance.now();
  let hidden: ReturnType<typeof hideSocket> | undefined;
  const touch = () => {
    touchedMs = performance.now();
  };

  /** The launcher answers for this shim without coming here: it leaves a mark instead. */
  const markedMs = (): number => {
    const found: Stats | undefined = statSync(`${socketPath}.used`, { throwIfNoEntry: false });
    return found === undefined ? Number.NEGATIVE_INFINITY : performance.now() - (Date.now() - found.mtimeMs);
  };
  const idleMs = () => performance.now() - Math.max(touchedMs, markedMs());

  const check = async (): Promise<void> => {
    for (;;) {
      if (busy()) touch();
      const leftMs = lingerMs - idleMs();
      if (leftMs > 0) {
        await sleep(Math.max(leftMs, 10), undefined, { ref: false });
        continue;
      }
      keeper()?.pause();
      hidden = hideSocket(socketPath);
      await sleep(graceMs);
      if (!busy() && idleMs() >= lingerMs) {
        onEnd();
        return;
      }
      hidden.back();
      hidden = undefined;
      keeper()?.resume();
    }
  };
  // It reads and renames two files; what fails there is a broken directory, and the shim stays.
  setImmediate(() => void check().catch(() => {}));
  return {
    touch,
    removeSocket() {
      hidden?.remove();
      rmSync(`${socketPath}.used`, { force: true });
    },
  };
}
