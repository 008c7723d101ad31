// One actor: its calls, signals, timers, started work, batches, and the ways it can end.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { test } from 'node:test';
import { type ActorContext, type ActorDefinition, defineActor } from '../../../src/supervisor/actor.ts';
import { ActorSystem } from '../../../src/supervisor/system.ts';
import { type Call, type ExitReason, noReply } from '../../../src/supervisor/types.ts';
import { VirtualClock } from '../../sim/virtual-clock.ts';

type Do = (context: ActorContext<Signal>, call: Call<unknown>) => unknown;
type Signal = () => unknown;
interface Protocol {
  do: { request: Do; reply: unknown };
}

/** An actor that does what it is told. */
function puppet(
  extra: Partial<ActorDefinition<Protocol, Signal, string, undefined>> = {},
): ActorDefinition<Protocol, Signal, string, undefined> {
  return defineActor<Protocol, Signal, string, undefined>({
    name: 'puppet',
    mailboxLengthMax: 4,
    stopTimeoutMs: 1_000,
    init: () => 'state',
    handleCall: { do: (_state, request, call, context) => request(context, call) },
    handleSignal: (_state, signal) => signal() as undefined,
    ...extra,
  });
}

function setUp() {
  const clock = new VirtualClock();
  const crashes: unknown[] = [];
  const system = new ActorSystem({ name: 'test', clock, onCrash: (_path, error) => crashes.push(error) });
  return { clock, crashes, system, ref: system.ref<Protocol>('a') };
}

const never = () => new Promise<never>(() => {});
const shutdown: ExitReason = { kind: 'shutdown' };

test('answers at once, later, and by a promise', async () => {
  const { clock, system, ref } = setUp();
  await clock.run(
    (async () => {
      await system.spawn('a', puppet(), undefined);
      assert.equal(await ref.call('do', () => 1), 1);
      assert.equal(await ref.call('do', async () => 2), 2);
      const late = ref.call('do', (context, call) => {
        context.after(50, () => call.reply(3));
        return noReply;
      });
      assert.equal(await late, 3);
      assert.equal(clock.nowMs(), 50);
    })(),
  );
});

test('one message at a time: a handler that waits holds up the next', async () => {
  const { clock, system, ref } = setUp();
  const log: string[] = [];
  await clock.run(
    (async () => {
      await system.spawn('a', puppet(), undefined);
      await Promise.all([
        ref.call('do', async () => {
          log.push('in');
          await clock.sleep(10);
          log.push('out');
        }),
        ref.call('do', () => log.push('next')),
      ]);
    })(),
  );
  assert.deepEqual(log, ['in', 'out', 'next']);
});

test('an expected error answers and the actor lives; a bug answers as internal and crashes it', async () => {
  const { clock, crashes, system, ref } = setUp();
  await clock.run(
    (async () => {
      const cell = await system.spawn('a', puppet(), undefined);
      const refusal = Object.assign(new Error('no'), { code: 'not-found' });
      for (const refuse of [() => Promise.reject(refusal), () => assert.fail(refusal)])
        await assert.rejects(ref.call('do', refuse), refusal);
      assert.equal(system.alive('a'), true);
      const bug = new TypeError('oh');
      const waiting = ref.call('do', () => 'never reached');
      const failing = ref.call('do', () => {
        throw bug;
      });
      const other = ref.call('do', () => 'never reached');
      assert.equal(await waiting, 'never reached');
      await assert.rejects(failing, { code: 'internal', message: 'oh', cause: bug });
      await assert.rejects(other, { code: 'unavailable', cause: bug });
      assert.deepEqual(await cell.exited, { kind: 'crash', error: bug });
      assert.deepEqual(crashes, [bug]);
      await assert.rejects(
        ref.call('do', () => 1),
        { code: 'unavailable' },
      );
    })(),
  );
});

test('an answer that fails later with a bug is internal, and does not crash whoever passes it on', async () => {
  const { clock, system, ref } = setUp();
  await clock.run(
    (async () => {
      await system.spawn('a', puppet(), undefined);
      await system.spawn('b', puppet(), undefined);
      const viaB = system.ref<Protocol>('b').call('do', () =>
        ref.call('do', (_context, call) => {
          call.fail(new TypeError('oh'));
          return noReply;
        }),
      );
      await assert.rejects(viaB, { code: 'internal' });
      assert.deepEqual(system.paths(), ['a', 'b']);
    })(),
  );
});

test('a call settles once', async () => {
  const { clock, system, ref } = setUp();
  await clock.run(
    (async () => {
      await system.spawn('a', puppet(), undefined);
      const answer = ref.call('do', (_context, call) => {
        call.reply('first');
        call.reply('second');
        call.fail(new Error('third'));
        call.onCancel(() => assert.fail('nobody cancelled'));
        assert.equal(call.settled, true);
        return 'fourth';
      });
      assert.equal(await answer, 'first');
    })(),
  );
});

test('deadline and abort reject in time and tell the actor; the late answer is dropped', async () => {
  const { clock, system, ref } = setUp();
  await clock.run(
    (async () => {
      await system.spawn('a', puppet(), undefined);
      let told = 0;
      let late: Call<unknown> | undefined;
      const wait: Do = (_context, call) => {
        call.onCancel(() => told++);
        late = call;
        return noReply;
      };
      await assert.rejects(ref.call('do', wait, { deadlineMs: 70 }), { code: 'deadline-exceeded' });
      assert.equal(clock.nowMs(), 70);
      assert.equal(told, 1);
      assert.equal(late?.settled, true);
      late?.reply('too late');

      const controller = new AbortController();
      const aborted = ref.call('do', wait, { signal: controller.signal });
      await clock.sleep(5);
      controller.abort();
      await assert.rejects(aborted, { code: 'canceled' });
      assert.equal(told, 2);
      await assert.rejects(ref.call('do', wait, { signal: controller.signal }), { code: 'canceled' });
      assert.equal(told, 2);
      assert.equal(clock.pendingTimers, 0);
    })(),
  );
});

test('a signal that serves many calls keeps none of them', async () => {
  const { clock, system, ref } = setUp();
  await clock.run(
    (async () => {
      await system.spawn('a', puppet(), undefined);
      const { signal } = new AbortController();
      for (let i = 0; i < 50; i++) await ref.call('do', () => i, { signal });
      for (let i = 0; i < 5; i++)
        await assert.rejects(ref.call('do', () => noReply, { signal, deadlineMs: 1 }));
      assert.equal(getEventListeners(signal, 'abort').length, 0);
      assert.equal(clock.pendingTimers, 0);
    })(),
  );
});

test('a call that is cancelled while it waits is never handled', async () => {
  const { clock, system, ref } = setUp();
  await clock.run(
    (async () => {
      await system.spawn('a', puppet(), undefined);
      const first = ref.call('do', () => clock.sleep(100));
      await assert.rejects(
        ref.call('do', () => assert.fail('handled'), { deadlineMs: 10 }),
        { code: 'deadline-exceeded' },
      );
      await first;
      assert.equal(await ref.call('do', () => 'alive'), 'alive');
    })(),
  );
});

test('a full mailbox refuses calls and counts casts; signals get through in order', async () => {
  const { clock, system, ref } = setUp();
  const log: number[] = [];
  await clock.run(
    (async () => {
      const cell = await system.spawn('a', puppet(), undefined);
      let context: ActorContext<Signal> | undefined;
      const holding = ref.call('do', (own) => {
        context = own;
        return clock.sleep(10);
      });
      await clock.sleep(1);
      const filling = Array.from({ length: 4 }, (_, i) => ref.call('do', () => log.push(i)));
      await assert.rejects(
        ref.call('do', () => log.push(99)),
        { code: 'resource-exhausted' },
      );
      ref.cast('do', () => log.push(99));
      context?.signal(() => void log.push(4));
      context?.signal(() => void log.push(5));
      await Promise.all([holding, ...filling]);
      await clock.sleep(1);
      assert.deepEqual(log, [0, 1, 2, 3, 4, 5]);
      const { refused, mailboxLengthPeak, mailboxLength, messages } = cell.counters();
      assert.deepEqual(
        { refused, mailboxLengthPeak, mailboxLength, messages },
        {
          refused: 2,
          mailboxLengthPeak: 6,
          mailboxLength: 0,
          messages: 7,
        },
      );
    })(),
  );
});

test('casts: a refusal is counted, a missing actor or operation too', async () => {
  const { clock, system, ref } = setUp();
  await clock.run(
    (async () => {
      ref.cast('do', () => 1);
      const cell = await system.spawn('a', puppet(), undefined);
      ref.cast('do', () => Promise.reject(Object.assign(new Error('no'), { code: 'not-found' })));
      ref.cast('nothing' as never, (() => 1) as never);
      await clock.sleep(1);
      assert.equal(cell.counters().castsFailed, 1);
      assert.equal(system.systemCounters().castsDropped, 2);
      assert.equal(system.alive('a'), true);
    })(),
  );
});

test('an unknown operation is unimplemented, those of Object.prototype too', async () => {
  const { clock, system, ref } = setUp();
  await clock.run(
    (async () => {
      await system.spawn('a', puppet(), undefined);
      for (const op of ['nothing', 'toString', 'constructor'])
        await assert.rejects(ref.call(op as 'do', (() => 1) as never), { code: 'unimplemented' });
    })(),
  );
});

test('started work comes back as a signal, with what it threw, at once or later', async () => {
  const { clock, system, ref } = setUp();
  await clock.run(
    (async () => {
      await system.spawn('a', puppet(), undefined);
      const work = (work: () => Promise<unknown>) =>
        ref.call('do', (context, call) => {
          context.start(work, (outcome) => () => call.reply(outcome));
          return noReply;
        });
      const error = new Error('oh');
      assert.deepEqual(await work(async () => 7), { ok: true, value: 7 });
      assert.deepEqual(await work(() => Promise.reject(error)), { ok: false, error });
      assert.deepEqual(
        await work(() => {
          throw error;
        }),
        { ok: false, error },
      );
    })(),
  );
});

test('a bug in a signal, an outcome, a monitor or an onCancel crashes its own actor only', async () => {
  const bug = new TypeError('oh');
  const oops = () => {
    throw bug;
  };
  const ways: Record<string, Do> = {
    signal: (context) => context.signal(oops),
    timer: (context) => void context.after(5, oops),
    outcome: (context) => context.start(async () => 1, oops),
    monitor: (context) => void context.monitor('b', oops),
    onCancel: (_context, call) => {
      call.onCancel(oops);
      return noReply;
    },
  };
  for (const [way, request] of Object.entries(ways)) {
    const { clock, system, ref } = setUp();
    await clock.run(
      (async () => {
        const cell = await system.spawn('a', puppet(), undefined);
        const other = await system.spawn('b', puppet(), undefined);
        ref.call('do', request, { deadlineMs: 10 }).catch(() => {});
        await clock.sleep(20);
        if (way === 'monitor') await other.stop(shutdown);
        assert.deepEqual(await cell.exited, { kind: 'crash', error: bug }, way);
        if (way !== 'monitor') assert.equal(system.alive('b'), true, way);
      })(),
    );
  }
});

test('stop finishes the message in hand, fails those that wait, and runs terminate', async () => {
  const { clock, system, ref } = setUp();
  const log: string[] = [];
  const definition = puppet({
    terminate: async (state, reason, context) => {
      assert.equal(context.stopping.aborted, true);
      await clock.sleep(5);
      log.push(`${state} ${reason.kind}`);
    },
  });
  await clock.run(
    (async () => {
      const cell = await system.spawn('a', definition, undefined);
      const inHand = ref.call('do', async (context) => {
        await clock.sleep(20);
        return context.stopping.aborted;
      });
      const waiting = ref.call('do', () => assert.fail('handled'));
      waiting.catch(() => {});
      await clock.sleep(1);
      await cell.stop(shutdown);
      assert.equal(await inHand, true);
      await assert.rejects(waiting, { code: 'unavailable' });
      assert.deepEqual(log, ['state shutdown']);
      assert.equal(clock.nowMs(), 25);
      await cell.stop(shutdown);
    })(),
  );
});

test('an actor that hangs is killed when its time is over, and its calls fail', async () => {
  for (const hang of ['handler', 'terminate', 'init']) {
    const { clock, crashes, system, ref } = setUp();
    await clock.run(
      (async () => {
        const definition = puppet({
          ...(hang === 'init' ? { init: never } : {}),
          ...(hang === 'terminate' ? { terminate: never } : {}),
        });
        const spawning = system.spawn('a', definition, undefined);
        spawning.catch(() => {});
        await clock.sleep(1);
        const call = ref.call('do', hang === 'handler' ? never : () => noReply);
        call.catch(() => {});
        await clock.sleep(0);
        const cell = system.cell('a');
        assert.ok(cell);
        await Promise.all([cell.stop(shutdown, 100), cell.stop(shutdown, 10), cell.stop(shutdown, Infinity)]);
        const reason = await cell.exited;
        assert.equal(reason.kind, 'killed', hang);
        assert.equal(clock.nowMs(), 11, hang);
        await assert.rejects(call, { code: 'unavailable' });
        if (hang === 'init') await assert.rejects(spawning, { code: 'unavailable' });
        assert.equal(crashes.length, 1);
        assert.deepEqual(system.paths(), []);
        assert.equal(clock.pendingTimers, 0);
      })(),
    );
  }
});

test('stop during init waits for it, then terminates what it made', async () => {
  const { clock, system } = setUp();
  const log: string[] = [];
  const definition = puppet({
    init: async (context) => {
      await clock.sleep(30);
      log.push(`init ${context.stopping.aborted}`);
      return 'made';
    },
    terminate: (state) => void log.push(`terminate ${state}`),
  });
  await clock.run(
    (async () => {
      const spawning = system.spawn('a', definition, undefined);
      spawning.catch(() => {});
      await system.cell('a')?.stop(shutdown);
      assert.deepEqual(log, ['init true', 'terminate made']);
      await assert.rejects(spawning, { code: 'unavailable' });
    })(),
  );
});

test('what an init makes after its actor was killed is terminated too', async () => {
  const { clock, system } = setUp();
  const log: string[] = [];
  const definition = puppet({
    init: () => clock.sleep(30).then(() => 'late'),
    terminate: (state, reason) => void log.push(`${state} ${reason.kind}`),
  });
  await clock.run(
    (async () => {
      const spawning = system.spawn('a', definition, undefined);
      spawning.catch(() => {});
      system.cell('a')?.kill(new Error('now'));
      await assert.rejects(spawning, { code: 'unavailable' });
      assert.equal(clock.nowMs(), 0);
      await clock.sleep(50);
      assert.deepEqual(log, ['late killed']);
    })(),
  );
});

test('an init that refuses is no crash report; one with a bug is', async () => {
  const { clock, crashes, system } = setUp();
  const refusal = Object.assign(new Error('no'), { code: 'not-found' });
  const bug = new TypeError('oh');
  await clock.run(
    (async () => {
      for (const error of [refusal, bug]) {
        const definition = puppet({ init: () => Promise.reject(error) });
        await assert.rejects(system.spawn('a', definition, undefined), error);
        assert.equal(system.alive('a'), false);
      }
    })(),
  );
  assert.deepEqual(crashes, [bug]);
});

test('calls made during init wait for it', async () => {
  const { clock, system, ref } = setUp();
  const definition = puppet({ init: () => clock.sleep(10).then(() => 'ready') });
  await clock.run(
    (async () => {
      const spawning = system.spawn('a', definition, undefined);
      assert.equal(await ref.call('do', () => 'handled'), 'handled');
      await spawning;
    })(),
  );
});

test('an actor may end itself, and a crash after that is still a crash', async () => {
  const { clock, system, ref } = setUp();
  await clock.run(
    (async () => {
      const first = await system.spawn('a', puppet(), undefined);
      assert.equal(
        await ref.call('do', (context) => {
          context.stop();
          return 'last words';
        }),
        'last words',
      );
      assert.deepEqual(await first.exited, { kind: 'normal' });
      const second = await system.spawn('a', puppet(), undefined);
      const bug = new TypeError('oh');
      const failing = ref.call('do', (context) => {
        context.stop();
        throw bug;
      });
      await assert.rejects(failing, { code: 'internal' });
      assert.deepEqual(await second.exited, { kind: 'crash', error: bug });
    })(),
  );
});

test('nothing is left of an actor that has ended: timers, work, monitors', async () => {
  const { clock, system, ref } = setUp();
  await clock.run(
    (async () => {
      const cell = await system.spawn('a', puppet(), undefined);
      await system.spawn('b', puppet(), undefined);
      let kept: ActorContext<Signal> | undefined;
      await ref.call('do', (context) => {
        kept = context;
        context.after(1_000, () => assert.fail('fired'));
        context.after(1_000, () => assert.fail('fired')).cancel();
        context.monitor('b', () => () => assert.fail('told'));
        context.monitor('b', () => () => assert.fail('told'))();
      });
      await cell.stop(shutdown);
      kept?.after(1_000, () => assert.fail('fired'));
      kept?.monitor('b', () => () => assert.fail('told'));
      kept?.start(
        () => assert.fail('started'),
        () => () => assert.fail('told'),
      );
      kept?.link('b');
      kept?.signal(() => assert.fail('received'));
      assert.equal(clock.pendingTimers, 0);
      assert.equal(system.systemCounters().watchers, 0);
    })(),
  );
});

test('a busy actor lets the event loop turn', async () => {
  const system = new ActorSystem({ name: 'real' });
  const cell = await system.spawn('a', puppet({ mailboxLengthMax: 10_000 }), undefined);
  const ref = system.ref<Protocol>('a');
  let turned = false;
  setImmediate(() => {
    turned = true;
  });
  let calls = 0;
  while (!turned && calls < 100_000) {
    calls++;
    await ref.call('do', () => 1);
  }
  assert.equal(turned, true);
  await cell.stop(shutdown);
});
