// One of two daemons that the same script runs against: it does each step and writes down what came back.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type Daemon, type Kind, startDaemon } from '../fixtures/daemon.ts';
import { type Outcome, type RunOptions, startService, until as untilTrue } from '../fixtures/process.ts';
import { mask, sortLabels } from './mask.ts';

export interface Step {
  step: string;
  code: number;
  stdout: string[];
  stderr: string[];
}

/** The daemon that the e2e tests examine. `TROUPE_E2E_SUBJECT=containerd` tries the tests themselves on the reference. */
export const subject: Kind = process.env['TROUPE_E2E_SUBJECT'] === 'containerd' ? 'containerd' : 'troupe';

export interface StepOptions extends RunOptions {
  /** Further masking of standard output, before the usual one. */
  shape?: (text: string) => string;
}

export class Side {
  readonly daemon: Daemon;
  readonly steps: Step[] = [];
  readonly #words: (readonly [string, string])[] = [];

  constructor(daemon: Daemon) {
    this.daemon = daemon;
  }

  /** Shows `shown` wherever `word` comes back from now on. */
  hide(word: string, shown: string): void {
    this.#words.push([word, shown]);
  }

  mask(text: string): string {
    const { namespace, directory } = this.daemon;
    return sortLabels(mask(text, { namespace, directory, words: this.#words }));
  }

  note(step: string, outcome: Outcome, shape: (text: string) => string = (text) => text): void {
    const lines = (text: string): string[] => this.mask(text).split('\n');
    this.steps.push({
      step: this.mask(step),
      code: outcome.code,
      stdout: lines(shape(outcome.stdout)),
      stderr: lines(outcome.stderr),
    });
  }

  /** Runs ctr and writes down status and output, both streams. */
  async ctr(args: readonly string[], options: StepOptions = {}): Promise<Outcome> {
    const outcome = await this.daemon.ctr(args, options);
    this.note(`ctr ${args.join(' ')}`, outcome, options.shape);
    return outcome;
  }

  /** As `ctr`, for steps that must work on both sides; what they print is written down as well. */
  async ok(args: readonly string[], options: StepOptions = {}): Promise<Outcome> {
    const outcome = await this.ctr(args, options);
    if (outcome.code !== 0) {
      throw new Error(
        `${this.daemon.kind}: ctr ${args.join(' ')}: exit ${outcome.code}: ${outcome.stdout}${outcome.stderr}`,
      );
    }
    return outcome;
  }

  /**
   * Writes down the events that `script` causes, as `ctr events` prints them; `until` is part of the last one.
   * `shape` sees the lines without those of the probe that finds out when the listener hears.
   */
  async events(
    until: string,
    script: () => Promise<void>,
    shape: (lines: string[]) => string[] = (lines) => lines,
  ) {
    const { address, namespace, directory } = this.daemon;
    const listener = startService('ctr', ['-a', address, 'events'], {
      logPath: join(directory, 'events.log'),
    });
    try {
      const lines = (): string[] => listener.log(Number.POSITIVE_INFINITY).split('\n');
      const from = lines().length;
      const heard = (): string[] => lines().slice(from - 1);
      await untilTrue('the listener hears', async () => {
        await this.daemon.ctr(['namespaces', 'label', `${namespace}-probe`, 'a=b']);
        return heard().some((line) => line.includes('/namespaces/')) ? true : undefined;
      });
      await script();
      await untilTrue('the last event', () =>
        heard().some((line) => line.includes(until)) ? true : undefined,
      );
      const told = heard().filter((line) => line !== '' && !line.includes('/namespaces/'));
      this.note('ctr events', { code: 0, stdout: shape(told).join('\n'), stderr: '' });
    } finally {
      await listener.stop('SIGKILL');
    }
  }

  /**
   * Runs ctr where it must fail. Wording is each daemon's own, so the exit status and the class of the error (the
   * last part of the message, by which clients branch) are written down, and whether the message names `thing`.
   */
  async fails(thing: string, args: readonly string[], options: RunOptions = {}): Promise<void> {
    const outcome = await this.daemon.ctr(args, options);
    const message = outcome.stderr.trim();
    const words = message.split(': ').at(-1) ?? '';
    this.steps.push({
      step: this.mask(`ctr ${args.join(' ')}`),
      code: outcome.code,
      stdout: [],
      stderr: [
        this.mask(words),
        message.includes(thing) ? `names ${this.mask(thing)}` : `does not name ${this.mask(thing)}`,
      ],
    });
  }
}

export interface Pair extends AsyncDisposable {
  readonly subject: Side;
  readonly reference: Side;
  /** Runs a script on both sides at once and demands the same steps with the same answers. */
  alike(script: (side: Side) => Promise<void>): Promise<void>;
}

// What nothing refers to stays until somebody removes it, so that no answer depends on when a collection ran.
export const noCollection = [
  '[plugins."io.containerd.gc.v1.scheduler"]',
  'startup_delay = "1h"',
  'schedule_delay = "1h"',
  'mutation_threshold = 1000000',
  '',
].join('\n');

/** The subject and a containerd beside it, each on a root of its own; `collect` leaves their collectors on. */
export async function startPair(options: { collect?: boolean } = {}): Promise<Pair> {
  const config = options.collect === true ? '' : noCollection;
  await using stack = new AsyncDisposableStack();
  const [one, other] = await Promise.allSettled([
    startDaemon(subject, { config }),
    startDaemon('containerd', { config }),
  ]);
  for (const started of [one, other]) if (started.status === 'fulfilled') stack.use(started.value);
  if (one.status === 'rejected') throw one.reason;
  if (other.status === 'rejected') throw other.reason;
  const pair = { subject: new Side(one.value), reference: new Side(other.value) };
  const owned = stack.move();
  return {
    ...pair,
    async alike(script) {
      const sides = [pair.subject, pair.reference];
      for (const side of sides) side.steps.length = 0;
      const ends = await Promise.allSettled(sides.map(script));
      // What differs is more telling than a later step that failed because of it.
      assert.deepEqual(pair.subject.steps, pair.reference.steps);
      for (const end of ends) if (end.status === 'rejected') throw end.reason;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
