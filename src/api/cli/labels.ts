// Labels as they are typed, and options that are given several times.
import { TroupeError } from '../client/index.ts';

/** `key=value`; a key alone is `true`. */
export function parseLabels(texts: readonly string[]): Map<string, string> {
  return new Map(
    texts.map((text) => {
      const equals = text.indexOf('=');
      const key = equals < 0 ? text : text.slice(0, equals);
      if (key === '') throw new TroupeError('invalid-argument', `label "${text}" has no key`);
      return [key, equals < 0 ? 'true' : text.slice(equals + 1)];
    }),
  );
}

/** For commander: the values of an option that may be given again. */
export function collect(value: string, before: string[] | undefined): string[] {
  return [...(before ?? []), value];
}
