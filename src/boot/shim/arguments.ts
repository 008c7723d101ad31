// The command line of a shim, as daemons give it.
import { fail } from '../../api/model/errors.ts';
import { parseNamespace } from '../../api/model/ids.ts';

export interface ShimArguments {
  readonly action: string;
  readonly namespace: string;
  readonly id: string;
  readonly address: string;
  readonly bundle: string;
  readonly debug: boolean;
  readonly info: boolean;
  readonly version: boolean;
}

const valued = new Set(['namespace', 'id', 'address', 'bundle', 'publish-binary', 'socket']);
const flags = new Set(['debug', 'info', 'v', 'version']);

/** Go's way with flags: one dash or two, the value after `=` or in the next word. */
export function parseArguments(words: readonly string[]): ShimArguments {
  const values = new Map<string, string>();
  const set = new Set<string>();
  let action = '';
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as string;
    if (!word.startsWith('-')) {
      action = word;
      break;
    }
    const text = word.replace(/^--?/, '');
    const equals = text.indexOf('=');
    const name = equals < 0 ? text : text.slice(0, equals);
    if (flags.has(name)) {
      if (equals < 0 || text.slice(equals + 1) === 'true') set.add(name);
    } else if (valued.has(name)) {
      const value = equals < 0 ? words[++i] : text.slice(equals + 1);
      if (value === undefined) throw fail('invalid-argument', `flag needs an argument: -${name}`);
      values.set(name, value);
    } else throw fail('invalid-argument', `flag provided but not defined: -${name}`);
  }
  return {
    action,
    namespace: values.get('namespace') ?? '',
    id: values.get('id') ?? '',
    address: values.get('address') ?? '',
    bundle: values.get('bundle') ?? '',
    debug: set.has('debug'),
    info: set.has('info'),
    version: set.has('v') || set.has('version'),
  };
}

/** Throws when what every action needs is missing. */
export function checkArguments({ namespace, action, id }: ShimArguments): void {
  if (namespace === '') throw fail('invalid-argument', 'shim namespace cannot be empty');
  parseNamespace(namespace);
  if (action !== 'start' && action !== 'delete') {
    throw fail('invalid-argument', `no action "${action}": use start or delete`);
  }
  if (id === '') throw fail('invalid-argument', 'shim id cannot be empty');
}
