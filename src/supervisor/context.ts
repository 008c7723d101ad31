// What an actor's handlers may do: signals to itself, timers, started work, monitors and links.
import type { ActorContext } from './actor.ts';
import type { ActorCell } from './cell.ts';
import type { ActorSystem } from './system.ts';
import type { Timer } from './types.ts';

const noTimer: Timer = { cancel: () => {} };

export function makeContext(
  cell: ActorCell,
  system: ActorSystem,
  stopping: AbortSignal,
): ActorContext<unknown> {
  /** The actor's own function that makes a signal may throw: that is the actor's crash, not its neighbour's. */
  const signalOf = <T>(make: (value: T) => unknown, value: T, receive: (signal: unknown) => void) => {
    let signal: unknown;
    try {
      signal = make(value);
    } catch (error) {
      cell.crash(error);
      return;
    }
    receive(signal);
  };
  const receive = (signal: unknown) => cell.receive(signal);
  const receiveUrgent = (signal: unknown) => cell.receiveUrgent(signal);
  return {
    path: cell.path,
    system,
    stopping,
    signal: receive,
    after: (delayMs, value) => {
      if (cell.ended) return noTimer;
      const timer = system.clock.setTimer(() => {
        cell.timers.delete(timer);
        cell.receive(value);
      }, delayMs);
      cell.timers.add(timer);
      return {
        cancel: () => {
          cell.timers.delete(timer);
          timer.cancel();
        },
      };
    },
    start: (work, done) => {
      if (cell.ended) return;
      let working: ReturnType<typeof work>;
      try {
        working = work(stopping);
      } catch (error) {
        working = Promise.reject(error);
      }
      working.then(
        (value) => signalOf(done, { ok: true, value }, receive),
        (error: unknown) => signalOf(done, { ok: false, error }, receive),
      );
    },
    monitor: (path, down) => {
      if (cell.ended) return () => {};
      const cancel = system.watch(path, (reason) => {
        cell.cleanups.delete(cancel);
        signalOf(down, reason, receiveUrgent);
      });
      cell.cleanups.add(cancel);
      return () => {
        cell.cleanups.delete(cancel);
        cancel();
      };
    },
    link: (path) => {
      if (!cell.ended) system.link(cell.path, path);
    },
    stop: (reason = { kind: 'normal' }) => cell.requestStop(reason),
  };
}
