// The caller's terminal while a container owns it: raw mode, size changes, and everything put back whatever happens.
import { constants } from 'node:os';
import { codeOf, type ExitStatus, messageOf, type Process, sigkill, TroupeError } from '../client/index.ts';
import type { Context, Host } from './context.ts';

const forwarded: readonly NodeJS.Signals[] = [
  ...(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const),
];

const interruptsMax = 3;

/** Number of a signal by name (`TERM`, `SIGTERM`) or number. Throws `invalid-argument`. */
export function parseSignal(text: string): number {
  if (/^\d{1,2}$/.test(text) && Number(text) >= 1 && Number(text) <= 64) return Number(text);
  const upper = text.toUpperCase();
  const name = upper.startsWith('SIG') ? upper : `SIG${upper}`;
  if (Object.hasOwn(constants.signals, name)) return constants.signals[name as NodeJS.Signals];
  const realTime = /^SIGRT(MIN|MAX)(?:([+-])(\d{1,2}))?$/.exec(name);
  if (realTime !== null) {
    // Signal numbers of the kernel: the C library keeps the first two for itself.
    const number =
      (realTime[1] === 'MIN' ? 34 : 64) + (realTime[2] === '-' ? -1 : 1) * Number(realTime[3] ?? 0);
    if (number >= 34 && number <= 64) return number;
  }
  throw new TroupeError('invalid-argument', `"${text}" is not a signal`);
}

/** Raw mode until disposed, and at the latest when the process exits. */
function rawMode(host: Host): Disposable {
  const { stdin } = host;
  if (stdin.isTTY !== true || stdin.setRawMode === undefined) return { [Symbol.dispose]() {} };
  let raw = true;
  const restore = (): void => {
    if (raw) stdin.setRawMode?.(false);
    raw = false;
  };
  stdin.setRawMode(true);
  const off = host.onExit(restore);
  return {
    [Symbol.dispose]() {
      off();
      restore();
    },
  };
}

function followSize(host: Host, process: Process): Disposable & { refresh(): void } {
  const { stdout } = host;
  const resize = (): void => {
    if (stdout.columns === undefined || stdout.rows === undefined) return;
    // The process may be gone by now; its size matters to nobody then.
    process.resize(stdout.columns, stdout.rows).catch(() => {});
  };
  stdout.on('resize', resize);
  resize();
  return { refresh: resize, [Symbol.dispose]: () => void stdout.off('resize', resize) };
}

/** Starts a process whose streams are ours, forwards signals, and waits for its end. */
export async function attach(
  context: Context,
  process: Process,
  { terminal }: { terminal: boolean },
): Promise<ExitStatus> {
  const { host } = context;
  using _raw = terminal ? rawMode(host) : undefined;
  using size = terminal ? followSize(host, process) : undefined;
  const listeners = new Map<NodeJS.Signals, () => void>();
  const send = (signal: number, name: string): void => {
    process.kill(signal).catch((error: unknown) => {
      if (codeOf(error) !== 'not-found') context.warn(`forwarding ${name}: ${messageOf(error)}`);
    });
  };
  let interrupts = 0;
  for (const name of forwarded) {
    listeners.set(name, () => {
      // The first process of a container ignores what it has no handler for: somebody who insists means it.
      if ((name === 'SIGINT' || name === 'SIGTERM') && ++interrupts >= interruptsMax)
        send(sigkill, 'SIGKILL');
      else send(constants.signals[name], name);
    });
  }
  using _signals = context.forwardSignals(listeners);
  // Nobody reads the output any more. The first process of a container ignores SIGPIPE, so it is killed.
  const readerLeft = (): void => void process.kill(sigkill).catch(() => {});
  context.signal.addEventListener('abort', readerLeft, { once: true });
  using _listener = { [Symbol.dispose]: () => context.signal.removeEventListener('abort', readerLeft) };
  const exit = process.wait();
  // A start that fails is what the caller hears of; the wait then has nothing to add.
  exit.catch(() => {});
  await process.start();
  // An exec has no terminal to size before its start.
  size?.refresh();
  return await exit;
}
