// One simulated run: a tree of supervisors and crew, clients that call it, and chaos. Every promise the kit makes
// is checked as it goes and at the end.
import assert from 'node:assert/strict';
import {
  actorChild,
  type ChildSpec,
  Supervisor,
  type SupervisorEvent,
  type SupervisorOptions,
  supervisorChild,
} from '../../src/supervisor/supervisor.ts';
import { ActorSystem } from '../../src/supervisor/system.ts';
import type { ActorRef } from '../../src/supervisor/types.ts';
import { Bug, behaviours, type CrewProtocol, crewActor, type Findings, type Flaws } from './crew.ts';
import { Random } from './random.ts';
import { VirtualClock } from './virtual-clock.ts';

interface Watched {
  readonly path: string;
  readonly options: Omit<SupervisorOptions, 'path'>;
  /** Virtual times of the restarts that it has begun since its last start. */
  restartsMs: number[];
  current: Supervisor | undefined;
}

export interface WorldResult {
  calls: number;
  outcomes: Record<string, number>;
  restarts: number;
  gaveUps: number;
  steps: number;
  virtualMs: number;
}

const flawless: Flaws = { initFails: 0, initHangs: 0, terminateFails: 0, terminateHangs: 0 };

export class World {
  readonly #random: Random;
  readonly #clock: VirtualClock;
  readonly #system: ActorSystem;
  readonly #watched = new Map<string, Watched>();
  readonly #crewPaths: string[] = [];
  readonly #findings: Findings = { orderBroken: [], inits: 0, terminates: 0, downs: 0 };
  readonly #outcomes: Record<string, number> = {};
  #calls = 0;
  #restarts = 0;
  #gaveUps = 0;
  #settling = false;
  #dynamic = 0;
  /** How often a request asks for nothing but an answer: some runs are calm, others are not. */
  readonly #calm: number;

  constructor(seed: number) {
    this.#random = new Random(seed);
    this.#calm = this.#random.next() * 0.95;
    this.#clock = new VirtualClock(this.#random);
    this.#system = new ActorSystem({
      name: 'sim',
      clock: this.#clock,
      onCrash: (path, error) => {
        // Whatever is reported is either one of the planned bugs or the kit's own doing.
        const code = (error as { code?: unknown }).code;
        assert.ok(error instanceof Bug || typeof code === 'string', `${path}: ${String(error)}`);
      },
    });
    const noteRestart = this.#system.noteRestart.bind(this.#system);
    this.#system.noteRestart = (path) => {
      noteRestart(path);
      this.#onRestart(path);
    };
  }

  async run(): Promise<WorldResult> {
    await this.#clock.run(this.#story());
    assert.deepEqual(this.#findings.orderBroken, []);
    assert.deepEqual(this.#system.paths(), [], 'actors are left over');
    // What the crew sleeps for comes to an end; of the kit nothing may be left.
    await this.#clock.advance(1_000);
    assert.equal(this.#clock.pendingTimers, 0, 'timers are left over');
    assert.equal(this.#system.systemCounters().watchers, 0, 'watchers are left over');
    assert.equal(
      Object.values(this.#outcomes).reduce((sum, count) => sum + count, 0),
      this.#calls,
      'a call did not settle',
    );
    return {
      calls: this.#calls,
      outcomes: this.#outcomes,
      restarts: this.#restarts,
      gaveUps: this.#gaveUps,
      steps: this.#clock.steps,
      virtualMs: this.#clock.nowMs(),
    };
  }

  async #story(): Promise<void> {
    const random = this.#random;
    const root = await this.#growTree();
    if (root !== undefined) {
      const clients = Array.from({ length: random.int(2, 8) }, (_, i) => this.#client(`client${i}`, root));
      const chaos = this.#chaos(root);
      await Promise.all([...clients, chaos]);
      await this.#settle(root);
      await root.stop({ kind: 'shutdown' });
      await root.exited;
    }
  }

  /** A root that is one_for_one and patient, so that most runs go on; what lies below is of all kinds. */
  async #growTree(): Promise<Supervisor | undefined> {
    const random = this.#random;
    const children: ChildSpec[] = [];
    for (let i = random.int(1, 3); i > 0; i--) children.push(this.#branch('root', `s${i}`, 2));
    const options = this.#watch('root', {
      strategy: random.pick(['one_for_one', 'rest_for_one']),
      intensity: { restartsMax: 100, withinMs: 1_000 },
      children,
    });
    try {
      const root = await Supervisor.start(this.#system, { ...options, path: 'root' });
      this.#now('root').current = root;
      return root;
    } catch (error) {
      // A tree that cannot be grown leaves nothing behind; `run` looks.
      assert.ok(error instanceof Error);
      return undefined;
    }
  }

  #branch(above: string, id: string, depth: number): ChildSpec {
    const random = this.#random;
    const path = `${above}/${id}`;
    const children: ChildSpec[] = [];
    for (let i = random.int(1, 4); i > 0; i--) {
      if (depth > 0 && random.chance(0.25)) children.push(this.#branch(path, `s${i}`, depth - 1));
      else children.push(this.#crew(path, `a${i}`));
    }
    const options = this.#watch(path, {
      strategy: random.pick(['one_for_one', 'rest_for_one']),
      stopOrder: random.pick(['reverse', 'together']),
      intensity: { restartsMax: random.int(0, 6), withinMs: random.int(50, 1_000) },
      children,
    });
    const shutdownMs = random.chance(0.3) ? random.int(1, 50) : Number.POSITIVE_INFINITY;
    const spec = supervisorChild(this.#system, id, options, shutdownMs, (supervisor) => {
      this.#now(path).current = supervisor;
    });
    return {
      ...spec,
      start: (at, starting, killing) => {
        this.#now(path).restartsMs = [];
        this.#now(path).current = undefined;
        return spec.start(at, starting, killing);
      },
    };
  }

  #crew(above: string, id: string): ChildSpec {
    const random = this.#random;
    const flaws: Flaws = random.chance(0.5)
      ? flawless
      : { initFails: 0.1, initHangs: 0.05, terminateFails: 0.1, terminateHangs: 0.1 };
    const definition = crewActor(this.#clock, random, flaws, this.#findings);
    this.#crewPaths.push(`${above}/${id}`);
    const restart = random.pick(['permanent', 'permanent', 'transient', 'temporary'] as const);
    return actorChild(this.#system, id, definition, undefined, { restart, startMs: random.int(20, 100) });
  }

  #now(path: string): Watched {
    return this.#watched.get(path) as Watched;
  }

  #watch(path: string, options: Omit<SupervisorOptions, 'path'>): Omit<SupervisorOptions, 'path'> {
    const watched: Watched = { path, options, restartsMs: [], current: undefined };
    this.#watched.set(path, watched);
    return { ...options, onEvent: (event) => this.#onEvent(watched, event) };
  }

  #onEvent(watched: Watched, event: SupervisorEvent): void {
    if (event.kind === 'gave-up') {
      this.#gaveUps++;
      const gone = watched.current;
      void gone?.exited.then((reason) => assert.equal(reason.kind, 'crash'));
      return;
    }
  }

  /** Every restart is counted where the supervisor decides on it. */
  #onRestart(childPath: string): void {
    const path = childPath.slice(0, childPath.lastIndexOf('/'));
    const watched = this.#now(path);
    const { restartsMax, withinMs } = watched.options.intensity;
    const nowMs = this.#clock.nowMs();
    this.#restarts++;
    watched.restartsMs.push(nowMs);
    const recent = watched.restartsMs.filter((atMs) => nowMs - atMs <= withinMs);
    assert.ok(recent.length <= restartsMax, `${path} restarts ${recent.length} times in ${withinMs} ms`);
  }

  async #client(name: string, root: Supervisor): Promise<void> {
    const random = this.#random;
    const seqs = new Map<string, number>();
    const open: Promise<void>[] = [];
    for (let i = random.int(5, 40); i > 0; i--) {
      const path = random.pick(this.#crewPaths);
      const seq = (seqs.get(path) ?? 0) + 1;
      seqs.set(path, seq);
      const request = {
        from: name,
        seq,
        behaviour: random.chance(this.#calm) ? ('answer' as const) : random.pick(behaviours),
        delayMs: random.int(0, 100),
        peer: random.pick(this.#crewPaths),
      };
      const ref = this.#system.ref<CrewProtocol>(path);
      if (random.chance(0.2)) ref.cast('note', request);
      else open.push(this.#call(ref, request));
      if (random.chance(0.4)) await this.#clock.sleep(random.int(0, 30));
      this.#checkBounds();
      if (this.#over(root)) break;
    }
    await Promise.all(open);
  }

  async #call(ref: ActorRef<CrewProtocol>, request: CrewProtocol['ask']['request']): Promise<void> {
    const random = this.#random;
    const deadlineMs = random.int(1, 400);
    const controller = new AbortController();
    const abortMs = random.chance(0.15) ? random.int(0, deadlineMs) : undefined;
    if (abortMs !== undefined) this.#clock.setTimer(() => controller.abort(), abortMs);
    const beganMs = this.#clock.nowMs();
    this.#calls++;
    let endedMs = Number.POSITIVE_INFINITY;
    const cell = this.#system.cell(ref.path);
    void cell?.exited.then(() => {
      endedMs = this.#clock.nowMs();
    });
    let outcome: string;
    try {
      const reply = await ref.call('ask', request, {
        deadlineMs,
        signal: controller.signal,
      });
      assert.deepEqual(reply, { seq: request.seq }, 'an answer to another question');
      outcome = 'answered';
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      const { code } = error as { code?: unknown };
      assert.equal(typeof code, 'string', `an error without a code: ${String(error)}`);
      outcome = code as string;
    }
    this.#outcomes[outcome] = (this.#outcomes[outcome] ?? 0) + 1;
    const tookMs = this.#clock.nowMs() - beganMs;
    assert.ok(tookMs <= deadlineMs, `a call took ${tookMs} ms of ${deadlineMs}: ${outcome}`);
    assert.ok(cell !== undefined || tookMs === 0, 'a call of nobody waited');
    assert.ok(this.#clock.nowMs() <= endedMs, `a call outlived its actor: ${outcome}`);
    if (abortMs !== undefined) assert.ok(tookMs <= abortMs, 'a call went on after its abort');
  }

  async #chaos(root: Supervisor): Promise<void> {
    const random = this.#random;
    for (let i = random.int(0, 15); i > 0; i--) {
      await this.#clock.sleep(random.int(0, 60));
      if (this.#over(root)) return;
      const path = random.pick(this.#crewPaths);
      const supervisor = this.#now(random.pick([...this.#watched.keys()])).current;
      switch (random.int(0, 5)) {
        case 0:
          this.#system.cell(path)?.kill(new Bug('killed'));
          break;
        case 1:
          void this.#system.cell(path)?.stop({ kind: 'shutdown' }, random.int(0, 50));
          break;
        case 2:
          this.#system.exit(path, { kind: 'crash', error: new Bug('told to crash') });
          break;
        case 3: {
          if (supervisor === undefined) break;
          const spec = this.#crew(supervisor.path, `d${this.#dynamic++}`);
          await supervisor.startChild(spec).catch((error: unknown) => assert.ok(error instanceof Error));
          break;
        }
        case 4: {
          const child = supervisor?.children().at(-1);
          // Not awaited: it must also be right when more happens meanwhile.
          if (child !== undefined) void supervisor?.stopChild(child.id);
          break;
        }
        case 5: {
          const child = supervisor?.children().at(0);
          if (supervisor === undefined || child === undefined || supervisor === root) break;
          if (random.chance(0.2)) void supervisor.stop({ kind: 'shutdown' }, random.int(0, 100));
          break;
        }
      }
    }
  }

  #over(root: Supervisor): boolean {
    let over = false;
    try {
      root.children();
      over = this.#settling;
    } catch {
      over = true;
    }
    return over;
  }

  /** When chaos is over and time has gone by, the tree is whole: every child that is to be there is there. */
  async #settle(root: Supervisor): Promise<void> {
    this.#settling = true;
    let ended = false;
    void root.exited.then(() => {
      ended = true;
    });
    await this.#clock.sleep(60_000);
    if (ended) return;
    const owned = new Set<string>();
    const walk = (supervisor: Supervisor) => {
      for (const child of supervisor.children()) {
        const below = this.#watched.get(child.path);
        if (!child.alive) {
          assert.fail(`${child.path} is not alive, and nobody restarts it`);
        } else if (below === undefined) {
          owned.add(child.path);
          assert.ok(this.#system.alive(child.path), `${supervisor.path} holds the dead ${child.path}`);
        } else walk(below.current as Supervisor);
      }
    };
    walk(root);
    assert.deepEqual(new Set(this.#system.paths()), owned, 'an actor that no supervisor holds');
    this.#checkBounds();
  }

  #checkBounds(): void {
    for (const { path, mailboxLengthPeak } of this.#system.counters()) {
      // 16 is the largest bound of the crew; signals of its own may come on top.
      assert.ok(mailboxLengthPeak <= 16 + 64, `the mailbox of ${path} held ${mailboxLengthPeak}`);
    }
  }
}
