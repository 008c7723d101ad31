// Filters compiled to a matcher: which records of a list, or which events, a client wants to see.
import { RE2JS } from 're2js';
import { fail, messageOf } from './errors.ts';
import { type FilterOperator, parseFilter, type Selector } from './filter-syntax.ts';

export { formatFilter, parseFilter, type Selector } from './filter-syntax.ts';

/** The value that a record has at a path, or undefined when the path is absent. */
export type FieldLookup = (path: readonly string[]) => string | undefined;

export interface Filter {
  /** True when the filter keeps everything, so that nobody need look. */
  readonly all: boolean;
  matches(lookup: FieldLookup): boolean;
  /** The only values that `path` can have in a match, when the filter pins it down: a list can then be a get. */
  exact(path: string): readonly string[] | undefined;
}

export const filterCountMax = 1024;
export const patternLengthMax = 1000;

type Test = (lookup: FieldLookup) => boolean;

/**
 * Compiles the filter strings of one request: a record matches when any string does, or when there is none, or an
 * empty one. Throws `invalid-argument` on a syntax error or beyond a limit.
 */
export function compileFilters(inputs: readonly string[]): Filter {
  if (inputs.length > filterCountMax) {
    throw fail('invalid-argument', `filters: more than ${filterCountMax} filters`);
  }
  const parsed = inputs.map(parseFilter);
  const all = parsed.length === 0 || parsed.some((selectors) => selectors.length === 0);
  const alternatives = parsed.map((selectors) => selectors.map(testOf));
  return {
    all,
    matches: (lookup) => all || alternatives.some((tests) => tests.every((test) => test(lookup))),
    exact: (path) => (all ? undefined : exactValues(parsed, path)),
  };
}

/** As `compileFilters`; the message ends as clients of containerd see it from most stores, its class said twice. */
export function compileStoreFilters(inputs: readonly string[]): Filter {
  try {
    return compileFilters(inputs);
  } catch (error) {
    throw fail('invalid-argument', `${messageOf(error)}: invalid argument: invalid argument`, error);
  }
}

function testOf({ path, operator, value }: Selector): Test {
  if (operator === undefined) return (lookup) => lookup(path) !== undefined;
  return comparisons[operator](path, value);
}

const comparisons: Record<FilterOperator, (path: readonly string[], value: string) => Test> = {
  '==': (path, value) => (lookup) => lookup(path) === value,
  '!=': (path, value) => (lookup) => lookup(path) !== value,
  '~=': (path, pattern) => {
    const expression = compilePattern(pattern);
    return expression === undefined ? () => false : (lookup) => expression.test(lookup(path) ?? '');
  },
};

/** RE2 runs in time linear in its input, so a client cannot stall the daemon; a bad pattern matches nothing. */
function compilePattern(pattern: string): RE2JS | undefined {
  if (pattern.length > patternLengthMax) {
    throw fail('invalid-argument', `filters: pattern is longer than ${patternLengthMax} characters`);
  }
  try {
    return RE2JS.compile(pattern);
  } catch {
    return undefined;
  }
}

function exactValues(parsed: readonly (readonly Selector[])[], path: string): string[] | undefined {
  const values = new Set<string>();
  for (const selectors of parsed) {
    const pin = selectors.find(
      (selector) => selector.operator === '==' && selector.path.length === 1 && selector.path[0] === path,
    );
    if (pin === undefined) return undefined;
    values.add(pin.value);
  }
  return [...values];
}

/** For lookups: the entry of a map that a path names; what follows the first part is one key, dots and all. */
export function mapEntry(map: ReadonlyMap<string, string>, path: readonly string[]): string | undefined {
  return path.length < 2 ? undefined : map.get(path.length === 2 ? path[1]! : path.slice(1).join('.'));
}

/** For lookups: most fields count as absent when they are empty. */
export function nonEmpty(value: string): string | undefined {
  return value === '' ? undefined : value;
}
