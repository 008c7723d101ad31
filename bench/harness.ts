// What every question shares: two daemons side by side, alternating rounds, medians, ratios and one JSON line a figure.
import { appendFileSync, mkdirSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Daemon, Kind } from '../test/fixtures/daemon.ts';

export const kinds: readonly Kind[] = ['troupe', 'containerd'];

export type Medium = 'disk' | 'tmpfs';
export const mediums: readonly Medium[] = ['disk', 'tmpfs'];

/** Directory for the daemons' roots on that medium. */
export function parentOf(medium: Medium): string {
  return medium === 'tmpfs' ? '/dev/shm' : tmpdir();
}

/** What a figure has to reach: so many times the other's, so small a value of its own, or both. */
export interface Goal {
  readonly ratioMin?: number;
  readonly valueMax?: number;
}

export interface Figure {
  question: string;
  figure: string;
  medium: Medium;
  unit: string;
  better: 'higher' | 'lower';
  /** Medians over the rounds. */
  troupe: number;
  containerd: number;
  /** How many times better Troupe is: above 1 it wins, whichever direction is better. */
  ratio: number;
  goal?: Goal | undefined;
  rounds: { troupe: number[]; containerd: number[] };
  processors: number;
  date: string;
}

export interface Options {
  quick: boolean;
}

export interface Question {
  name: string;
  /** One sentence for RESULTS.md: what is measured, and how. */
  asks: string;
  run(bench: Bench): Promise<void>;
}

export class Bench {
  readonly quick: boolean;
  readonly figures: Figure[] = [];
  readonly #question: string;
  readonly #outPath: string;

  constructor(question: string, options: Options) {
    this.quick = options.quick;
    this.#question = question;
    const directory = fileURLToPath(new URL('./out/', import.meta.url));
    mkdirSync(directory, { recursive: true });
    this.#outPath = `${directory}${question}.jsonl`;
  }

  /**
   * Measures rounds in the order A, B, A, B, ... and records one figure for each name that `round` returns. The first
   * side changes from round to round, so that neither always meets the warmer machine.
   */
  async alternate(
    at: {
      medium: Medium;
      unit: string;
      better: 'higher' | 'lower';
      roundCount: number;
      /** By figure. */
      goals?: Readonly<Record<string, Goal>>;
      /** Figures that are measured otherwise than the rest. */
      others?: Readonly<Record<string, { unit: string; better: 'higher' | 'lower' }>>;
    },
    round: (kind: Kind, index: number) => Promise<Record<string, number>>,
  ): Promise<void> {
    const samples = new Map<string, Record<Kind, number[]>>();
    for (let index = 0; index < at.roundCount; index++) {
      for (const kind of index % 2 === 0 ? kinds : kinds.toReversed()) {
        for (const [figure, value] of Object.entries(await round(kind, index))) {
          const both = samples.get(figure) ?? { troupe: [], containerd: [] };
          both[kind].push(value);
          samples.set(figure, both);
        }
      }
    }
    for (const [figure, rounds] of samples) {
      const troupe = median(rounds.troupe);
      const containerd = median(rounds.containerd);
      const { unit, better } = at.others?.[figure] ?? at;
      this.#record({
        question: this.#question,
        figure,
        medium: at.medium,
        unit,
        better,
        troupe,
        containerd,
        ratio: better === 'higher' ? troupe / containerd : containerd / troupe,
        goal: at.goals?.[figure],
        rounds,
        processors: cpus().length,
        date: new Date().toISOString(),
      });
    }
  }

  /**
   * Troupe alone, under two conditions: what the second one costs stands in its column, what the first one costs in
   * that of containerd, as the figure's name should say.
   */
  compareOwn(
    at: { figure: string; medium: Medium; unit: string; goal: Goal },
    costs: { first: number[]; second: number[] },
  ): void {
    const first = median(costs.first);
    const second = median(costs.second);
    this.#record({
      question: this.#question,
      figure: at.figure,
      medium: at.medium,
      unit: at.unit,
      better: 'lower',
      troupe: second,
      containerd: first,
      ratio: first / second,
      goal: at.goal,
      rounds: { troupe: costs.second, containerd: costs.first },
      processors: cpus().length,
      date: new Date().toISOString(),
    });
  }

  #record(figure: Figure): void {
    this.figures.push(figure);
    const line = JSON.stringify(figure, (_, value: unknown) =>
      typeof value === 'number' ? Number(value.toPrecision(5)) : value,
    );
    process.stdout.write(`${line}\n`);
    appendFileSync(this.#outPath, `${line}\n`);
  }
}

/** A goal in words, and whether it is met. */
export function verdictOf({ goal, ratio, troupe, unit }: Figure): { goal: string; verdict: string } {
  if (goal === undefined) return { goal: '', verdict: '' };
  const { ratioMin, valueMax } = goal;
  const words = [
    ...(ratioMin === undefined ? [] : [`${ratioMin}x`]),
    ...(valueMax === undefined ? [] : [`at most ${valueMax} ${unit}`]),
  ];
  const met = (ratioMin === undefined || ratio >= ratioMin) && (valueMax === undefined || troupe <= valueMax);
  return { goal: words.join(', '), verdict: met ? 'met' : 'missed' };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export function daemonOf(daemons: readonly Daemon[], kind: Kind): Daemon {
  return daemons.find((daemon) => daemon.kind === kind)!;
}
