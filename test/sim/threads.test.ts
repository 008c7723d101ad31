// The same chaos on real worker threads, which end at random while clients call. Time is real here, so a seed gives
// the same deeds but not the same interleaving; what is checked must hold under any.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Supervisor } from '../../src/supervisor/supervisor.ts';
import { ActorSystem } from '../../src/supervisor/system.ts';
import { takeSnapshot } from '../../src/supervisor/telemetry.ts';
import { type ThreadHost, threadChild } from '../../src/supervisor/thread.ts';
import type { ActorRef } from '../../src/supervisor/types.ts';
import type { CrewProtocol } from '../unit/supervisor/thread-crew.ts';
import { Random, seeds } from './random.ts';

const threadNames = ['north', 'south'];
/** Generous: what is checked is that a call settles at all, and no later than its deadline but for a busy machine. */
const slackMs = 5_000;

class ThreadWorld {
  readonly #random: Random;
  readonly #system = new ActorSystem({ name: 'main' });
  readonly #hosts = new Map<string, ThreadHost>();
  readonly outcomes: Record<string, number> = {};
  kills = 0;
  gaveUp = false;

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  async run(): Promise<void> {
    const top = await Supervisor.start(this.#system, {
      path: 'top',
      strategy: 'one_for_one',
      intensity: { restartsMax: 1_000, withinMs: 1_000 },
      children: threadNames.map((name) =>
        threadChild(
          this.#system,
          {
            name,
            module: new URL('../unit/supervisor/thread-crew.ts', import.meta.url),
            data: { prefix: name },
            routes: [name],
          },
          2_000,
          (host) => this.#hosts.set(name, host),
        ),
      ),
    });
    try {
      const clients = Array.from({ length: 8 }, () => this.#client());
      await Promise.all([...clients, this.#chaos(top)]);
      await this.#settle(top);
    } finally {
      await top.stop({ kind: 'shutdown' });
    }
    const after = await takeSnapshot(this.#system);
    assert.equal(after.threads.length, 1, 'a thread is left over');
    assert.equal(after.threads[0]?.system.watchers, 0, 'watchers are left over');
  }

  async #client(): Promise<void> {
    const random = this.#random;
    for (let i = 0; i < 25; i++) {
      const name = random.pick(threadNames);
      const ref = this.#system.ref<CrewProtocol>(`${name}/a`);
      const burst = Array.from({ length: random.int(1, 10) }, () => this.#call(ref));
      if (random.chance(0.1)) this.#system.watch(`${name}/a`, () => {});
      await Promise.all(burst);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async #call(ref: ActorRef<CrewProtocol>): Promise<void> {
    const random = this.#random;
    const deadlineMs = random.int(1, 60);
    const beganMs = performance.now();
    const way = random.next();
    const token = random.int(0, 1_000_000);
    let outcome = 'answered';
    try {
      if (way < 0.8) assert.equal(await ref.call('echo', token, { deadlineMs }), token);
      else if (way < 0.9) await ref.call('hold', undefined, { deadlineMs });
      else if (way < 0.995) await ref.call('refuse', 'not-found', { deadlineMs });
      else await ref.call('crash', undefined, { deadlineMs });
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      outcome = String((error as { code?: unknown }).code);
    }
    this.outcomes[outcome] = (this.outcomes[outcome] ?? 0) + 1;
    assert.notEqual(outcome, 'undefined', 'an error without a code');
    assert.ok(performance.now() - beganMs <= deadlineMs + slackMs, `a call hung: ${outcome}`);
  }

  async #chaos(top: Supervisor): Promise<void> {
    const random = this.#random;
    for (let i = 0; i < 6; i++) {
      await new Promise((resolve) => setTimeout(resolve, random.int(0, 60)));
      const name = random.pick(threadNames);
      const ref = this.#system.ref<CrewProtocol>(`${name}/a`);
      this.kills++;
      switch (random.int(0, 4)) {
        case 0:
          ref.cast('exit', random.int(0, 3));
          break;
        case 1:
          ref.cast('throwUncaught', undefined);
          break;
        case 2:
          ref.cast('rejectUnhandled', undefined);
          break;
        case 3:
          this.#hosts.get(name)?.kill(new Error('killed by chaos'));
          break;
        case 4:
          // Not while it starts: its host would have to wait for the end of the start's deadline.
          if (!top.children().every(({ alive }) => alive)) break;
          ref.cast('spin', undefined);
          await new Promise((resolve) => setTimeout(resolve, random.int(0, 20)));
          this.#hosts.get(name)?.kill(new Error('killed while it spun'));
          break;
      }
    }
  }

  /** When chaos is over, both threads come back and answer. */
  async #settle(top: Supervisor): Promise<void> {
    const beganMs = performance.now();
    const back = async (name: string) => {
      const ref = this.#system.ref<CrewProtocol>(`${name}/a`);
      const answer = await ref.call('echo', 1, { deadlineMs: 1_000 }).catch((error) => error.code);
      // What a watchdog does to a thread that spins.
      if (answer === 'deadline-exceeded') this.#hosts.get(name)?.kill(new Error('does not answer'));
      return answer === 1 && top.children().every(({ alive }) => alive);
    };
    for (const name of threadNames) {
      while (!(await back(name))) {
        assert.ok(performance.now() - beganMs < 60_000, `thread ${name} did not come back`);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
    const { threads, links } = await takeSnapshot(this.#system);
    assert.equal(threads.length, 1 + threadNames.length);
    for (const { peer, pending } of links) assert.equal(pending, 0, `calls to ${peer} are left over`);
  }
}

test('threads end at random: every call settles, and the supervisor has all threads back', async (t) => {
  const totals: Record<string, number> = {};
  for (const seed of seeds(4)) {
    const world = new ThreadWorld(seed);
    try {
      await world.run();
    } catch (error) {
      throw new Error(`seed ${seed} failed; run it again with TROUPE_SIM_SEED=${seed}`, { cause: error });
    }
    totals['kills'] = (totals['kills'] ?? 0) + world.kills;
    for (const [outcome, count] of Object.entries(world.outcomes))
      totals[outcome] = (totals[outcome] ?? 0) + count;
  }
  t.diagnostic(JSON.stringify(totals));
});
