// Runs the questions beside containerd: `npm run bench -- [--quick] [--write] [question ...]`, which bundles Troupe
// first, so that what is measured is what a package runs.
import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Bench, type Figure, type Question, verdictOf } from './harness.ts';
import { question as idle } from './questions/idle.ts';
import { question as images } from './questions/images.ts';
import { question as metadata } from './questions/metadata.ts';
import { question as pull } from './questions/pull.ts';
import { question as rates } from './questions/rates.ts';
import { question as taskCycle } from './questions/task-cycle.ts';
import { question as tasks } from './questions/tasks.ts';

const questions: readonly Question[] = [rates, metadata, pull, images, taskCycle, tasks, idle];
const resultsPath = new URL('./RESULTS.md', import.meta.url);

function number(value: number): string {
  if (Number.isNaN(value)) return '-';
  return value >= 100 ? String(Math.round(value)) : value.toPrecision(3);
}

/** A Markdown table with its columns aligned. */
function table(figures: readonly Figure[]): string {
  const goals = figures.some(({ goal }) => goal !== undefined);
  const rows = [
    [
      'figure',
      'on',
      'unit',
      'Troupe',
      'containerd',
      'Troupe is better by',
      ...(goals ? ['goal', 'verdict'] : []),
    ],
    ...figures.map((figure) => [
      figure.figure,
      figure.medium,
      figure.unit,
      number(figure.troupe),
      number(figure.containerd),
      Number.isNaN(figure.ratio) ? '-' : `${figure.ratio.toFixed(2)}x`,
      ...(goals ? Object.values(verdictOf(figure)) : []),
    ]),
  ];
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const lines = rows.map(
    (row) => `| ${row.map((cell, column) => cell.padEnd(widths[column]!)).join(' | ')} |`,
  );
  return lines.toSpliced(1, 0, `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`).join('\n');
}

/** Replaces the section of each question that has been run; the others stay as they are. */
function write(results: ReadonlyMap<Question, readonly Figure[]>, quick: boolean): void {
  let text = readFileSync(resultsPath, 'utf8');
  for (const [question, figures] of results) {
    const from = `<!-- ${question.name} -->`;
    const to = `<!-- end of ${question.name} -->`;
    const { date, processors } = figures[0]!;
    const how = `${date.slice(0, 10)}, ${processors} processors${quick ? ', quick run' : ''}.`;
    const section = `${from}\n## ${question.name}\n\n${question.asks} ${how}\n\n${table(figures)}\n\n${to}`;
    const start = text.indexOf(from);
    const end = text.indexOf(to);
    text =
      start < 0
        ? `${text.trimEnd()}\n\n${section}\n`
        : text.slice(0, start) + section + text.slice(end + to.length);
  }
  writeFileSync(resultsPath, text);
}

const { values, positionals } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, write: { type: 'boolean', default: false } },
  allowPositionals: true,
});
const chosen = questions.filter(({ name }) => positionals.length === 0 || positionals.includes(name));
if (chosen.length === 0)
  throw new Error(`no such question; there are ${questions.map(({ name }) => name).join(', ')}`);
const results = new Map<Question, readonly Figure[]>();
for (const question of chosen) {
  const bench = new Bench(question.name, { quick: values.quick });
  await question.run(bench);
  results.set(question, bench.figures);
}
process.stderr.write(`\n${[...results.values()].map(table).join('\n\n')}\n`);
if (values.write) write(results, values.quick);
