// The shim's insiders: one process for each container and identity in which execs come again and again. An exec that finds
// none goes to the runtime, while one comes up for the next.
import { closeSync, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fail, messageOf } from '../../../api/model/errors.ts';
import type { CommandLimits, ExitWatch, WatchedProcess } from '../../../api/model/ports/container-host.ts';
import type { Log } from '../../../api/model/ports/log.ts';
import { epollEvent, type FdWatch } from '../../sys/fd-watch.ts';
import type { Packets } from '../../sys/packets.ts';
import type { SpawnFds } from '../../sys/spawn.ts';
import { type Answer, decodePacket, encodePacket, type Order, packetBytesMax } from './orders.ts';
import type { Plan } from './plan.ts';

export interface InsidersDeps {
  readonly spawn: SpawnFds;
  readonly packets: Packets;
  readonly exits: ExitWatch;
  readonly watch: FdWatch;
  readonly log: Log;
  /** Opens the program that an insider runs, protected against writing (`openReadOnlyProgram`). */
  readonly openProgram: () => number;
  /** Words for the program: flags and entry. */
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** At most that many at once; 0: none ever. */
  readonly insidersMax: number;
  /** How long one stays without an exec. */
  readonly idleMs: number;
}

export interface Insiders {
  /** The pid of what was started, or undefined when nothing was and the runtime has to. */
  start(
    plan: Plan,
    owner: string,
    fds: readonly number[],
    limits: CommandLimits,
  ): Promise<number | undefined>;
  /** A process that was started here has ended, and its status is known. */
  ended(pid: number): void;
  /** Ends the insiders of one container; resolves when they are gone. */
  leave(owner: string): Promise<void>;
  /** Whether a process is an insider: it is in the container's cgroups for moments. */
  has(pid: number): boolean;
}

interface Waiting {
  taken: boolean;
  readonly settle: (result: number | undefined | Error) => void;
}

interface Insider {
  readonly key: string;
  readonly owner: string;
  readonly pid: number;
  readonly socket: number;
  readonly waiting: Map<number, Waiting>;
  readonly gone: Promise<void>;
  process: WatchedProcess | undefined;
  ready: boolean;
  served: number;
  timer: NodeJS.Timeout;
}

/** Identities that came to nothing or were not worth it. */
const rememberedMax = 256;
const timerMsMax = 2 ** 31 - 1;
/** An insider that has not looked at an order by then is stuck. */
const takingMsMax = 3000;
const leavingMsMax = 5000;
const kill = 9;

export function createInsiders(deps: InsidersDeps): Insiders {
  const { packets, exits, watch, log, insidersMax, idleMs } = deps;
  const byKey = new Map<string, Insider>();
  /** Who is the parent of what was started. */
  const parents = new Map<number, Insider>();
  /** Kept from coming up again: for ever, or until a second exec comes within `idleMs` of the first. */
  const shunned = new Map<string, 'unfit' | { lastMs: number }>();
  let seq = 0;
  let broken = insidersMax === 0;

  const end = (insider: Insider) => void insider.process?.signal(kill);

  function shun(key: string, why: 'unfit' | { lastMs: number }): void {
    shunned.delete(key);
    shunned.set(key, why);
    if (shunned.size > rememberedMax) shunned.delete(shunned.keys().next().value as string);
  }

  /** An identity whose insider came for one exec alone gets the next only when execs come close together. */
  function worthwhile(key: string): boolean {
    const found = shunned.get(key);
    if (found === undefined) return true;
    if (found === 'unfit') return false;
    const nowMs = performance.now();
    if (nowMs - found.lastMs < idleMs) {
      shunned.delete(key);
      return true;
    }
    shun(key, { lastMs: nowMs });
    return false;
  }

  function rest(insider: Insider): void {
    clearTimeout(insider.timer);
    insider.timer = setTimeout(() => {
      if (insider.waiting.size > 0 || byKey.get(insider.key) !== insider) return;
      if (insider.served < 2) shun(insider.key, { lastMs: performance.now() });
      end(insider);
    }, idleMs);
    insider.timer.unref();
  }

  function bringUp({ identity }: Plan, key: string, owner: string): void {
    if (byKey.size >= insidersMax || !worthwhile(key)) return;
    let program: number | undefined;
    let ends: [number, number] | undefined;
    let nothing: number | undefined;
    try {
      nothing = openSync('/dev/null', 'r+');
      program = deps.openProgram();
      ends = packets.pair();
      packets.send(ends[0], encodePacket({ kind: 'become', identity }));
      const pid = deps.spawn({
        file: `/proc/self/fd/${program}`,
        args: deps.args,
        cwd: '/',
        env: deps.env,
        fds: [nothing, nothing, nothing, ends[1]],
      });
      adopt(pid, ends[0], key, owner);
    } catch (error) {
      broken = true;
      if (ends !== undefined) closeSync(ends[0]);
      log.warn('execs go through the runtime: a process for them cannot be started', {
        error: messageOf(error),
      });
    } finally {
      for (const fd of [nothing, program, ends?.[1]]) if (fd !== undefined) closeSync(fd);
    }
  }

  function adopt(pid: number, socket: number, key: string, owner: string): void {
    const { promise: gone, resolve: setGone } = Promise.withResolvers<void>();
    const insider: Insider = {
      ...{ key, owner, pid, socket, gone, waiting: new Map(), process: undefined },
      ...{ ready: false, served: 0, timer: setTimeout(() => {}, 0) },
    };
    byKey.set(key, insider);
    rest(insider);
    const stop = watch.add(socket, epollEvent.in | epollEvent.hup, () => read(insider));
    insider.process = exits.watch(pid, () => {
      // What it said before its end is still there.
      read(insider);
      stop();
      clearTimeout(insider.timer);
      closeSync(socket);
      if (byKey.get(key) === insider) byKey.delete(key);
      for (const [child, parent] of parents) if (parent === insider) parents.delete(child);
      for (const { taken, settle } of insider.waiting.values()) {
        settle(
          taken
            ? fail('unknown', 'what was to start the exec has ended: whether it runs is not known')
            : undefined,
        );
      }
      insider.waiting.clear();
      setGone();
    });
  }

  function read(insider: Insider): void {
    try {
      for (;;) {
        const packet = packets.receive(insider.socket, packetBytesMax);
        if (packet === undefined || packet === 'end') return;
        for (const fd of packet.fds) closeSync(fd);
        hear(insider, decodePacket<Answer>(packet.data));
      }
    } catch (error) {
      // ECONNRESET: it has ended with orders unread.
      if ((error as { code?: unknown }).code !== 'ECONNRESET') {
        log.warn('an insider is not understood', { error: messageOf(error) });
        end(insider);
      }
    }
  }

  function hear(insider: Insider, answer: Answer): void {
    if (answer.kind === 'ready') {
      insider.ready = true;
      return;
    }
    if (answer.kind === 'refused' && answer.seq === undefined) {
      shun(insider.key, 'unfit');
      log.info('execs go through the runtime', { container: insider.owner, why: answer.why });
      return;
    }
    const number = answer.seq as number;
    const waiting = insider.waiting.get(number);
    if (answer.kind === 'taken') {
      if (waiting !== undefined) waiting.taken = true;
      return;
    }
    insider.waiting.delete(number);
    if (answer.kind === 'started') parents.set(answer.pid, insider);
    waiting?.settle(answer.kind === 'started' ? answer.pid : undefined);
  }

  function order(insider: Insider, plan: Plan, fds: readonly number[], limits: CommandLimits) {
    return new Promise<number | undefined>((resolve, reject) => {
      const number = ++seq;
      let timer: NodeJS.Timeout | undefined;
      const settle: Waiting['settle'] = (result) => {
        clearTimeout(timer);
        limits.signal?.removeEventListener('abort', onAbort);
        rest(insider);
        if (result instanceof Error) reject(result);
        else resolve(result);
      };
      /** What was not taken goes to the runtime when the insider has gone, and to nobody when time is up. */
      const late = (error: Error) => {
        insider.waiting.delete(number);
        end(insider);
        settle(error);
      };
      const onAbort = () => late(fail('canceled', 'exec: context canceled'));
      const message: Order = { kind: 'start', seq: number, program: plan.program };
      try {
        packets.send(insider.socket, encodePacket(message), fds);
      } catch {
        // It has ended, or is stuck with a full socket.
        end(insider);
        resolve(undefined);
        return;
      }
      insider.served++;
      insider.waiting.set(number, { taken: false, settle });
      clearTimeout(insider.timer);
      const deadlineMs = Math.min(Math.max(limits.deadlineMs, 1), timerMsMax);
      const check = () => {
        if (insider.waiting.get(number)?.taken === false) end(insider);
        const lateError = () =>
          late(fail('deadline-exceeded', `exec did not start within ${Math.round(deadlineMs)} ms`));
        timer = setTimeout(lateError, Math.max(deadlineMs - takingMsMax, 0));
      };
      timer = setTimeout(check, Math.min(takingMsMax, deadlineMs));
      limits.signal?.addEventListener('abort', onAbort, { once: true });
      if (limits.signal?.aborted) onAbort();
    });
  }

  return {
    async start(plan, owner, fds, limits) {
      if (broken) return undefined;
      const key = JSON.stringify([owner, plan.identity]);
      const insider = byKey.get(key);
      if (insider === undefined) bringUp(plan, key, owner);
      if (insider?.ready !== true) return undefined;
      // Larger ones would not come through whole.
      if (encodePacket({ kind: 'start', seq, program: plan.program }).length > packetBytesMax / 2)
        return undefined;
      return await order(insider, plan, fds, limits);
    },
    ended(pid) {
      const insider = parents.get(pid);
      if (insider === undefined) return;
      parents.delete(pid);
      try {
        packets.send(insider.socket, encodePacket({ kind: 'reap', pid }));
      } catch {
        // It has ended, and its children are this process's now; or it is stuck, and is better ended.
        end(insider);
      }
    },
    async leave(owner) {
      const all = [...byKey.values()].filter((insider) => insider.owner === owner);
      for (const insider of all) end(insider);
      if (all.length === 0) return;
      const limit = new AbortController();
      const late = sleep(leavingMsMax, undefined, { signal: limit.signal }).catch(() => undefined);
      await Promise.race([Promise.all(all.map(({ gone }) => gone)), late]);
      limit.abort();
    },
    has: (pid) => [...byKey.values()].some((insider) => insider.pid === pid),
  };
}
