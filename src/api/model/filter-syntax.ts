// The syntax of filters: `path op value, path op value`. Parses to selectors and writes them back.
import { fail, type TroupeError } from './errors.ts';

export type FilterOperator = '==' | '!=' | '~=';

export interface Selector {
  readonly path: readonly string[];
  /** Undefined for a presence test. */
  readonly operator: FilterOperator | undefined;
  readonly value: string;
}

export const filterLengthMax = 64 * 1024;

const space = /[\s\u0085]/;
const fieldRun = /[A-Za-z0-9_]+/y;
const bareRun = /[^,\s\u0085]+/y;
const bareStartForbidden = ',.=!~"/|';

/**
 * Parses one filter; an empty one has no selectors and matches everything. Throws `invalid-argument` with the
 * input and the offending character marked.
 */
export function parseFilter(input: string): Selector[] {
  if (input.length > filterLengthMax) {
    throw fail('invalid-argument', `filters: filter is longer than ${filterLengthMax} characters`);
  }
  return input === '' ? [] : new Parser(input).filter();
}

class Parser {
  readonly #input: string;
  #at = 0;

  constructor(input: string) {
    this.#input = input;
  }

  filter(): Selector[] {
    const nul = this.#input.indexOf('\0');
    if (nul >= 0) {
      this.#at = nul;
      throw this.#error('a filter holds no NUL');
    }
    const selectors = [this.#selector()];
    while (this.#at < this.#input.length) {
      if (this.#peek() !== ',') throw this.#error('expected a comma');
      this.#at++;
      selectors.push(this.#selector());
    }
    return selectors;
  }

  #selector(): Selector {
    const path = [this.#field()];
    while (this.#peek() === '.') {
      this.#at++;
      path.push(this.#field());
    }
    if (this.#at === this.#input.length || this.#peek() === ',') {
      return { path, operator: undefined, value: '' };
    }
    this.#skipSpace();
    const operator = this.#operator();
    this.#skipSpace();
    return { path, operator, value: this.#value(operator) };
  }

  #field(): string {
    this.#skipSpace();
    if (this.#peek() === '"') return this.#quoted('"');
    return this.#run(fieldRun) ?? this.#raise('expected a field name');
  }

  #operator(): FilterOperator {
    const operator = this.#input.slice(this.#at, this.#at + 2);
    if (operator !== '==' && operator !== '!=' && operator !== '~=') {
      throw this.#error('expected an operator: ==, != or ~=');
    }
    this.#at += 2;
    return operator;
  }

  #value(operator: FilterOperator): string {
    const first = this.#peek();
    if (first === '"') return this.#quoted('"');
    if (operator === '~=' && (first === '/' || first === '|')) return this.#quoted(first);
    if (first === undefined || bareStartForbidden.includes(first)) throw this.#error('expected a value');
    return this.#run(bareRun) ?? this.#raise('expected a value');
  }

  /** A quoted string with the escapes of Go, whose `\x` and octal escapes name bytes, not characters. */
  #quoted(quote: string): string {
    const opening = this.#at++;
    const parts: (string | number)[] = [];
    let plainFrom = this.#at;
    for (;;) {
      const char = this.#peek();
      if (char === undefined || char === '\n') {
        if (char === undefined) this.#at = opening;
        throw this.#error(
          char === undefined ? 'the quoted string does not end' : 'newline in a quoted string',
        );
      }
      if (char !== quote && char !== '\\') {
        this.#at++;
        continue;
      }
      if (this.#at > plainFrom) parts.push(this.#input.slice(plainFrom, this.#at));
      if (char === quote) {
        this.#at++;
        return joinParts(parts);
      }
      parts.push(this.#escape(quote));
      plainFrom = this.#at;
    }
  }

  /** A string, or a byte. */
  #escape(quote: string): string | number {
    const from = this.#at++;
    const char = this.#input[this.#at++];
    if (char === quote || char === '\\') return char;
    if (char !== undefined && Object.hasOwn(simpleEscapes, char)) return simpleEscapes[char]!;
    const digits = char === 'x' ? 2 : char === 'u' ? 4 : char === 'U' ? 8 : 0;
    if (digits > 0) {
      const hex = this.#input.slice(this.#at, this.#at + digits);
      if (hex.length === digits && /^[0-9A-Fa-f]+$/.test(hex)) {
        this.#at += digits;
        const value = Number.parseInt(hex, 16);
        if (digits === 2) return value;
        if (value <= 0x10ffff && (value < 0xd800 || value > 0xdfff)) return String.fromCodePoint(value);
      }
    } else if (char !== undefined && char >= '0' && char <= '7') {
      const octal = this.#input.slice(this.#at - 1, this.#at + 2);
      if (/^[0-3][0-7]{2}$/.test(octal)) {
        this.#at += 2;
        return Number.parseInt(octal, 8);
      }
    }
    this.#at = from;
    throw this.#error('unknown escape in a quoted string');
  }

  #peek(): string | undefined {
    return this.#input[this.#at];
  }

  #skipSpace(): void {
    while (this.#at < this.#input.length && space.test(this.#input[this.#at]!)) this.#at++;
  }

  #run(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const run = pattern.exec(this.#input)?.[0];
    if (run !== undefined) this.#at += run.length;
    return run;
  }

  #raise(expected: string): never {
    throw this.#error(expected);
  }

  #error(expected: string): TroupeError {
    const point = this.#input.codePointAt(this.#at);
    let shown = this.#input;
    if (point !== undefined) {
      const bad = String.fromCodePoint(point);
      const after = this.#input.slice(this.#at + bad.length);
      shown = `${this.#input.slice(0, this.#at)} >|${bad}|< ${after}`;
    }
    return fail('invalid-argument', `filters: parse error: [${shown}]: ${expected}`);
  }
}

const simpleEscapes: Readonly<Record<string, string>> = {
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
};

function joinParts(parts: readonly (string | number)[]): string {
  if (!parts.some((part) => typeof part === 'number')) return parts.join('');
  return Buffer.concat(
    parts.map((part) => (typeof part === 'number' ? Buffer.from([part]) : Buffer.from(part))),
  ).toString();
}

/** Writes selectors as a filter that parses to the same selectors. */
export function formatFilter(selectors: readonly Selector[]): string {
  return selectors
    .map(({ path, operator, value }) => {
      const name = path.map((field) => (/^[A-Za-z0-9_]+$/.test(field) ? field : quote(field))).join('.');
      return operator === undefined ? name : `${name}${operator}${quote(value)}`;
    })
    .join(',');
}

function quote(text: string): string {
  const escaped = text.replace(/["\\\x00-\x1f\x7f]/g, (char) =>
    char === '"' || char === '\\' ? `\\${char}` : `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return `"${escaped}"`;
}
