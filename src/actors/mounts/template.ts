// The templates of `format/` mounts: `{{ source 0 }}`, `{{ target 0 }}`, `{{ mount 0 }}` and `{{ overlay 0 2 }}` over
// the mounts that were performed before.
import { fail } from '../../api/model/errors.ts';

export interface Performed {
  readonly source: string;
  readonly target: string;
  /** Where it is mounted. */
  readonly point: string;
}

const expression = /\{\{(.*?)\}\}/gs;

/** Throws `invalid-argument` for what is no such template, or names a mount that was not performed before. */
export function expandTemplate(text: string, performed: readonly Performed[]): string {
  const expanded = text.replace(expression, (whole, inside: string) => evaluate(whole, inside, performed));
  if (text.replace(expression, '').includes('{{'))
    throw fail('invalid-argument', `template "${text}" does not end`);
  return expanded;
}

function evaluate(whole: string, inside: string, performed: readonly Performed[]): string {
  const [name, ...words] = inside
    .replace(/^-\s|\s-$/g, ' ')
    .trim()
    .split(/\s+/);
  const at = (word: string | undefined): Performed => {
    const one = /^\d{1,4}$/.test(word ?? '') ? performed[Number(word)] : undefined;
    if (one !== undefined) return one;
    throw fail(
      'invalid-argument',
      `template ${whole}: there are ${performed.length} mounts before, from 0 on`,
    );
  };
  if (words.length === (name === 'overlay' ? 2 : 1)) {
    if (name === 'source') return at(words[0]).source;
    if (name === 'target') return at(words[0]).target;
    if (name === 'mount') return at(words[0]).point;
    if (name === 'overlay') return overlay(at, Number(words[0]), Number(words[1]), words);
  }
  throw fail(
    'invalid-argument',
    `template ${whole}: write source, target or mount with a number, or overlay with two`,
  );
}

/** The mount points from one to the other, in either direction, as a list of layers. */
function overlay(
  at: (word: string | undefined) => Performed,
  from: number,
  to: number,
  words: string[],
): string {
  for (const word of words) at(word);
  const step = from <= to ? 1 : -1;
  return Array.from({ length: Math.abs(to - from) + 1 }, (_, i) => at(String(from + i * step)).point).join(
    ':',
  );
}
