// Supervisors: order, restarts, intensity, groups, and starts and stops that overlap.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type ChildSpec,
  type RestartPolicy,
  Supervisor,
  type SupervisorEvent,
  type SupervisorOptions,
  supervisorChild,
} from '../../../src/supervisor/supervisor.ts';
import { ActorSystem } from '../../../src/supervisor/system.ts';
import type { Child, ExitReason } from '../../../src/supervisor/types.ts';
import { VirtualClock } from '../../sim/virtual-clock.ts';

const shutdown: ExitReason = { kind: 'shutdown' };
const crash = (text = 'oh'): ExitReason => ({ kind: 'crash', error: new Error(text) });

class Stage {
  readonly clock = new VirtualClock();
  readonly system = new ActorSystem({ name: 'test', clock: this.clock });
  readonly log: string[] = [];
  readonly events: SupervisorEvent[] = [];
  readonly live = new Map<string, FakeChild>();

  spec(
    id: string,
    options: Partial<ChildSpec> & { restart?: RestartPolicy; stopMs?: number } = {},
  ): ChildSpec {
    const { stopMs = 0, ...rest } = options;
    return {
      id,
      restart: 'permanent',
      shutdownMs: 1_000,
      start: async (path) => {
        this.log.push(`+${id}`);
        return this.child(id, path, stopMs);
      },
      ...rest,
    };
  }

  child(id: string, path: string, stopMs = 0): FakeChild {
    const child = new FakeChild(this, id, path, stopMs);
    this.live.set(id, child);
    return child;
  }

  supervisor(options: Partial<SupervisorOptions> = {}): Promise<Supervisor> {
    return Supervisor.start(this.system, {
      path: 'top',
      strategy: 'one_for_one',
      intensity: { restartsMax: 3, withinMs: 1_000 },
      onEvent: (event) => this.events.push(event),
      ...options,
    });
  }

  kinds(): string[] {
    return this.events.map(({ kind }) => kind);
  }
}

class FakeChild implements Child {
  readonly path: string;
  readonly exited: Promise<ExitReason>;
  readonly end: (reason: ExitReason) => void;
  readonly #stage: Stage;
  readonly #id: string;
  readonly #stopMs: number;

  constructor(stage: Stage, id: string, path: string, stopMs: number) {
    this.path = path;
    this.#stage = stage;
    this.#id = id;
    this.#stopMs = stopMs;
    const { promise, resolve } = Promise.withResolvers<ExitReason>();
    this.exited = promise;
    this.end = (reason) => {
      stage.live.delete(id);
      resolve(reason);
    };
  }

  async stop(reason: ExitReason, timeoutMs: number): Promise<void> {
    const timer = this.#stage.clock.setTimer(
      () => {
        if (this.#stage.live.get(this.#id) !== this) return;
        this.#stage.log.push(`-${this.#id}${timeoutMs === 0 ? '!' : ''}`);
        this.end(reason);
      },
      Math.min(this.#stopMs, timeoutMs),
    );
    await this.exited;
    timer.cancel();
  }
}

async function tell(story: (stage: Stage) => Promise<void>): Promise<void> {
  const stage = new Stage();
  await stage.clock.run(story(stage));
  assert.equal(stage.clock.pendingTimers, 0, 'timers are left over');
}

test('children start in order and stop in reverse', () =>
  tell(async (stage) => {
    const top = await stage.supervisor({ children: [stage.spec('a'), stage.spec('b'), stage.spec('c')] });
    assert.deepEqual(
      top.children().map(({ id, path, alive }) => ({ id, path, alive })),
      ['a', 'b', 'c'].map((id) => ({ id, path: `top/${id}`, alive: true })),
    );
    await top.stop(shutdown);
    assert.deepEqual(stage.log, ['+a', '+b', '+c', '-c', '-b', '-a']);
    assert.deepEqual(await top.exited, shutdown);
    await assert.rejects(top.startChild(stage.spec('d')), { code: 'unavailable' });
    await top.stop(shutdown);
  }));

test('together stops all at once', () =>
  tell(async (stage) => {
    const children = ['a', 'b', 'c'].map((id) => stage.spec(id, { stopMs: 100 }));
    const top = await stage.supervisor({ stopOrder: 'together', children });
    await top.stop(shutdown);
    assert.equal(stage.clock.nowMs(), 100);
  }));

test('a first start that fails stops those before it and throws', () =>
  tell(async (stage) => {
    const broken = stage.spec('c', { start: () => Promise.reject(new Error('no')) });
    await assert.rejects(stage.supervisor({ children: [stage.spec('a'), stage.spec('b'), broken] }), /no/);
    assert.deepEqual(stage.log, ['+a', '+b', '-b', '-a']);
  }));

test('who is restarted: permanent always, transient after a crash, temporary never', () =>
  tell(async (stage) => {
    const policies = ['permanent', 'transient', 'temporary'] as const;
    for (const reason of [
      crash(),
      { kind: 'normal' },
      { kind: 'killed', error: 1 },
      shutdown,
    ] as ExitReason[]) {
      const top = await stage.supervisor({
        children: policies.map((restart) => stage.spec(restart, { restart })),
      });
      for (const child of [...stage.live.values()]) child.end(reason);
      await stage.clock.sleep(1);
      const expected =
        reason.kind === 'crash' || reason.kind === 'killed' ? policies.slice(0, 2) : ['permanent'];
      assert.deepEqual(
        top.children().map(({ id }) => id),
        expected,
        reason.kind,
      );
      assert.deepEqual([...stage.live.keys()], expected);
      await top.stop(shutdown);
    }
  }));

test('one_for_one restarts the one; rest_for_one also those after it, without the temporary', () =>
  tell(async (stage) => {
    const children = () => [
      stage.spec('a'),
      stage.spec('b'),
      stage.spec('t', { restart: 'temporary' }),
      stage.spec('c', { restart: 'transient' }),
    ];
    const one = await stage.supervisor({ children: children() });
    stage.log.length = 0;
    stage.live.get('b')?.end(crash());
    await stage.clock.sleep(1);
    assert.deepEqual(stage.log, ['+b']);
    await one.stop(shutdown);
    const rest = await stage.supervisor({ strategy: 'rest_for_one', children: children() });
    stage.log.length = 0;
    stage.live.get('b')?.end(crash());
    await stage.clock.sleep(1);
    assert.deepEqual(stage.log, ['-c', '-t', '+b', '+c']);
    assert.deepEqual(
      rest.children().map(({ id, restarts }) => [id, restarts]),
      [
        ['a', 0],
        ['b', 1],
        ['c', 0],
      ],
    );
    await rest.stop(shutdown);
  }));

test('more restarts than allowed end the supervisor, and it says so', () =>
  tell(async (stage) => {
    const top = await stage.supervisor({ children: [stage.spec('a'), stage.spec('b')] });
    for (let i = 0; i < 4; i++) {
      stage.live.get('b')?.end(crash(`crash ${i}`));
      await stage.clock.sleep(100);
    }
    const reason = await top.exited;
    assert.equal(reason.kind, 'crash');
    assert.match(
      String('error' in reason && reason.error),
      /top gave up: top\/b .* 3 times in 1000 ms.*crash 3/,
    );
    assert.deepEqual(stage.kinds(), ['restarted', 'restarted', 'restarted', 'gave-up']);
    assert.equal(stage.live.size, 0);
  }));

test('restarts that are far enough apart go on for ever', () =>
  tell(async (stage) => {
    const top = await stage.supervisor({ children: [stage.spec('a')] });
    for (let i = 0; i < 20; i++) {
      stage.live.get('a')?.end(crash());
      await stage.clock.sleep(400);
    }
    assert.equal(top.children()[0]?.restarts, 20);
    assert.equal(stage.system.restartsOf('top/a'), 20);
    await top.stopChild('a');
    assert.equal(stage.system.restartsOf('top/a'), 0);
    await top.stop(shutdown);
  }));

test('a restart that fails is tried again, and counts', () =>
  tell(async (stage) => {
    let starts = 0;
    const spec = stage.spec('a', {
      start: async (path) => {
        starts++;
        if (starts === 2 || starts === 3) throw new Error(`start ${starts}`);
        return stage.child('a', path);
      },
    });
    const top = await stage.supervisor({ children: [spec] });
    stage.live.get('a')?.end(crash());
    await stage.clock.sleep(1);
    assert.deepEqual(stage.kinds(), ['restart-failed', 'restart-failed', 'restarted']);
    assert.equal(top.children()[0]?.alive, true);
    starts = 1;
    stage.live.get('a')?.end(crash());
    await top.exited;
    assert.equal(stage.kinds().at(-1), 'gave-up');
  }));

test('a child that has ended by the time its start is through is restarted', () =>
  tell(async (stage) => {
    let starts = 0;
    const spec = stage.spec('a', {
      start: async (path) => {
        const child = stage.child('a', path);
        if (++starts === 1) child.end(crash());
        return child;
      },
    });
    const top = await stage.supervisor({ children: [spec] });
    await stage.clock.sleep(1);
    assert.equal(starts, 2);
    assert.equal(top.children()[0]?.alive, true);
    await top.stop(shutdown);
  }));

test('an id is taken once; a child that is being stopped makes way first', () =>
  tell(async (stage) => {
    const top = await stage.supervisor({ childrenMax: 2, children: [stage.spec('a', { stopMs: 50 })] });
    await assert.rejects(top.startChild(stage.spec('a')), { code: 'already-exists' });
    const stopping = top.stopChild('a');
    assert.equal(top.has('a'), false);
    await top.startChild(stage.spec('a'));
    await stopping;
    assert.deepEqual(stage.log, ['+a', '-a', '+a']);
    assert.equal(top.has('a'), true);
    await top.startChild(stage.spec('b'));
    await assert.rejects(top.startChild(stage.spec('c')), { code: 'resource-exhausted' });
    await top.stopChild('unknown');
    await top.stop(shutdown);
  }));

test('under one_for_one a slow start holds up no other child', () =>
  tell(async (stage) => {
    const top = await stage.supervisor();
    const slow = top.startChild(
      stage.spec('slow', {
        start: async (path) => {
          await stage.clock.sleep(500);
          return stage.child('slow', path);
        },
      }),
    );
    await top.startChild(stage.spec('quick'));
    assert.equal(stage.clock.nowMs(), 0);
    await slow;
    await top.stop(shutdown);
  }));

test('a start that hangs is given up: asked first, then killed', () =>
  tell(async (stage) => {
    const top = await stage.supervisor();
    const hanging = (answers: 'starting' | 'killing' | 'never') =>
      stage.spec(answers, {
        startMs: 100,
        shutdownMs: 50,
        start: (_path, starting, killing) =>
          new Promise((_, reject) => {
            const signal = answers === 'starting' ? starting : killing;
            if (answers !== 'never') signal.addEventListener('abort', () => reject(new Error('given up')));
          }),
      });
    for (const [answers, tookMs] of [
      ['starting', 100],
      ['killing', 150],
      ['never', 10_150],
    ] as const) {
      const beganMs = stage.clock.nowMs();
      await assert.rejects(top.startChild(hanging(answers)), { code: 'deadline-exceeded' });
      assert.equal(stage.clock.nowMs() - beganMs, tookMs, answers);
      assert.equal(top.has(answers), false);
    }
    await top.stop(shutdown);
  }));

test('a child that comes after its start was given up is stopped', () =>
  tell(async (stage) => {
    const top = await stage.supervisor();
    const late = stage.spec('late', {
      startMs: 10,
      start: async (path) => {
        await stage.clock.sleep(30);
        return stage.child('late', path);
      },
    });
    await assert.rejects(top.startChild(late), { code: 'deadline-exceeded' });
    assert.equal(stage.live.size, 0);
    assert.deepEqual(stage.log, ['-late']);
    await top.stop(shutdown);
  }));

test('stopping while a child starts calls the start off', () =>
  tell(async (stage) => {
    const hanging = stage.spec('h', {
      start: (_path, starting) =>
        new Promise((_, reject) => starting.addEventListener('abort', () => reject(new Error('called off')))),
    });
    for (const way of ['stop', 'stopChild'] as const) {
      const top = await stage.supervisor({ children: [stage.spec('a')] });
      const starting = top.startChild(hanging);
      starting.catch(() => {});
      await stage.clock.sleep(5);
      if (way === 'stopChild') await top.stopChild('h');
      await top.stop(shutdown);
      await assert.rejects(starting, /called off/);
      assert.equal(stage.live.size, 0);
    }
    assert.equal(stage.clock.nowMs(), 10);
  }));

test('stopping waits for a start that is called off to be through', () =>
  tell(async (stage) => {
    let through = false;
    const slow = stage.spec('slow', {
      start: async (path, starting) => {
        await new Promise<void>((resolve) => starting.addEventListener('abort', () => resolve()));
        await stage.clock.sleep(20);
        through = true;
        return stage.child('slow', path);
      },
    });
    const top = await stage.supervisor();
    const starting = top.startChild(slow);
    starting.catch(() => {});
    await stage.clock.sleep(1);
    await top.stop(shutdown);
    assert.equal(through, true);
    assert.equal(stage.live.size, 0);
    await assert.rejects(starting, { code: 'unavailable' });
  }));

test('taking away the one that crashed does not lose those that were stopped for it', () =>
  tell(async (stage) => {
    let starts = 0;
    const slow = stage.spec('a', {
      start: async (path, starting) => {
        if (++starts === 1) return stage.child('a', path);
        return await new Promise<Child>((_, reject) =>
          starting.addEventListener('abort', () => reject(new Error('called off'))),
        );
      },
    });
    const top = await stage.supervisor({ strategy: 'rest_for_one', children: [slow, stage.spec('b')] });
    stage.live.get('a')?.end(crash());
    await stage.clock.sleep(5);
    assert.equal(stage.live.size, 0);
    await top.stopChild('a');
    await stage.clock.sleep(5);
    assert.deepEqual([...stage.live.keys()], ['b']);
    await top.stop(shutdown);
  }));

test('a child whose first start waits its turn is not started by the restart of a sibling', () =>
  tell(async (stage) => {
    const children = [stage.spec('a'), stage.spec('x', { stopMs: 50 })];
    const top = await stage.supervisor({ strategy: 'rest_for_one', children });
    const stopping = top.stopChild('x');
    stage.live.get('a')?.end(crash());
    await stage.clock.sleep(1);
    await top.startChild(stage.spec('d'));
    await stopping;
    assert.deepEqual(stage.log, ['+a', '+x', '-x', '+a', '+d']);
    await top.stop(shutdown);
  }));

test('when the time for stopping is over, those left are killed', () =>
  tell(async (stage) => {
    const children = ['a', 'b', 'c'].map((id) => stage.spec(id, { stopMs: 900 }));
    const top = await stage.supervisor({ children });
    await top.stop(shutdown, 100);
    assert.deepEqual(stage.log, ['+a', '+b', '+c', '-c!', '-b!', '-a!']);
    assert.equal(stage.clock.nowMs(), 100);
  }));

test('when the time for stopping is over, a start that does not give up is killed', () =>
  tell(async (stage) => {
    const stubborn = stage.spec('s', {
      start: (_path, _starting, killing) =>
        new Promise((_, reject) => killing.addEventListener('abort', () => reject(new Error('killed')))),
    });
    const top = await stage.supervisor();
    const starting = top.startChild(stubborn);
    starting.catch(() => {});
    await stage.clock.sleep(1);
    await top.stop(shutdown, 100);
    assert.equal(stage.clock.nowMs(), 101);
    await assert.rejects(starting, /killed/);
  }));

test('a child whose stop throws does not keep the others alive', () =>
  tell(async (stage) => {
    const bad = stage.spec('bad', {
      start: async (path) => ({
        path,
        exited: new Promise(() => {}),
        stop: () => Promise.reject(new Error('no')),
      }),
    });
    const top = await stage.supervisor({ children: [stage.spec('a'), bad] });
    await top.stop(shutdown);
    assert.equal(stage.live.size, 0);
    assert.equal((await top.exited).kind, 'crash');
  }));

test('a tree: giving up climbs, and the parent starts the branch anew', () =>
  tell(async (stage) => {
    const branches: Supervisor[] = [];
    const branch = supervisorChild(
      stage.system,
      'branch',
      {
        strategy: 'one_for_one',
        intensity: { restartsMax: 0, withinMs: 1_000 },
        children: [stage.spec('leaf')],
      },
      1_000,
      (supervisor) => branches.push(supervisor),
    );
    const top = await stage.supervisor({ children: [branch] });
    stage.live.get('leaf')?.end(crash());
    await stage.clock.sleep(1);
    assert.equal(branches.length, 2);
    assert.equal(branches[1]?.path, 'top/branch');
    assert.equal(stage.live.get('leaf')?.path, 'top/branch/leaf');
    assert.deepEqual(stage.kinds(), ['restarted']);
    await top.stop(shutdown);
    assert.equal(stage.live.size, 0);
  }));
