// Replaces what may differ between two daemons that answer alike: ids, times, sizes of transfers in progress.

import { createHash } from 'node:crypto';

export interface MaskContext {
  namespace: string;
  directory: string;
  /** Further literal texts and what to show in their place. */
  words: readonly (readonly [string, string])[];
}

const months = '(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)';
// Human durations of go-units: "1 second", "About a minute", "Less than a second".
const age = /\b(?:Less than a second|About a minute|About an hour|\d+ (?:second|minute|hour)s?)\b/g;

const rules: readonly (readonly [RegExp, string])[] = [
  // Colours of a terminal.
  [/\u001b\[[0-9;]*[A-Za-z]/g, ''],
  [/\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z| ?[+-]\d\d:?\d\d)?(?: UTC)?/g, 'TIME'],
  [new RegExp(`\\w{3} ${months} +\\d+ \\d\\d:\\d\\d:\\d\\d \\w+ \\d{4}`, 'g'), 'TIME'],
  [/\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/g, 'UUID'],
  [/\bdone: [\d.]+(?:ms|µs|m?s)\b/g, 'done: DURATION'],
  // A client's own keys: nanoseconds, a dash, four characters of base64url.
  [/\b(?:extract-\d{1,9}|\d{6,9})-[\w-]{4}(?= |"|$)/gm, 'KEY'],
  [/"(pid|shim_pid|task_pid)":\d+/g, '"$1":PID'],
  [age, 'AGE'],
  // ctr's display and its transfer end in no certain order.
  [/^time=\S+ level=error msg="[\w ]+" error="context canceled"\n/gm, ''],
  [/snapshots\/\d+\//g, 'snapshots/N/'],
  [/\/run\/containerd\/fifo\/\d+\//g, '/run/containerd/fifo/N/'],
];

/** Long words would make the patterns below slow and differences unreadable. */
function digest(word: string): string {
  return `${word.length} characters of ${createHash('sha256').update(word).digest('hex')}`;
}

/** Masks and makes layout equal: a run of blanks within a line is one tab, a trailing one is dropped. */
export function mask(text: string, context: MaskContext): string {
  let out = text.replace(/\r+\n/g, '\n').replace(/\S{5000,}/g, digest);
  for (const [word, shown] of context.words) out = out.replaceAll(word, shown);
  out = out.replaceAll(context.directory, 'DIR').replaceAll(context.namespace, 'NAMESPACE');
  for (const [pattern, shown] of rules) out = out.replace(pattern, shown);
  return out.replace(/[ \t]*\t[ \t]*| {2,}/g, '\t').replace(/[ \t]+$/gm, '');
}

/**
 * The last frame of ctr's progress display, without the line of elapsed time. The order of its items, and whether one
 * was `done` or found to exist, depend on when ctr looked.
 */
export function lastFrame(text: string): string {
  const lines = text.replace(/:(\s+)exists(\s+\|)/g, ':$1done$2').split('\n');
  const elapsed = lines.flatMap((line, index) => (line.startsWith('elapsed:') ? [index] : []));
  const end = elapsed.at(-1);
  if (end === undefined) return text;
  const start = (elapsed.at(-2) ?? -1) + 1;
  return [...lines.slice(start, end).sort(), ...lines.slice(end + 1)].join('\n');
}

/** Sorts the labels of each line: ctr prints them in the random order of a Go map. A value may hold commas too. */
export function sortLabels(text: string): string {
  return text.replace(/[^\s,"]+=[^\s"]*,[^\s,"]+=[^\s"]*/g, (labels) =>
    labels
      .split(/,(?=[^\s,=]+=)/)
      .sort()
      .join(','),
  );
}
