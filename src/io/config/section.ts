// One table of config.toml, read key by key with types checked.
import { fail } from '../../api/model/errors.ts';

export type Table = Readonly<Record<string, unknown>>;

/** Reads one key of a table with its type checked; remembers which keys were asked for. */
export class Section {
  readonly #table: Table;
  readonly #name: string;
  readonly #asked = new Set<string>();

  constructor(table: Table, name: string) {
    this.#table = table;
    this.#name = name;
  }

  #wrong(key: string, wanted: string): Error {
    return fail(
      'invalid-argument',
      `config: ${this.#name}${key} must be ${wanted}, not ${JSON.stringify(this.#table[key])}`,
    );
  }

  string(key: string): string | undefined {
    this.#asked.add(key);
    const value = this.#table[key];
    if (value === undefined || typeof value === 'string') return value;
    throw this.#wrong(key, 'a string');
  }

  boolean(key: string): boolean | undefined {
    this.#asked.add(key);
    const value = this.#table[key];
    if (value === undefined || typeof value === 'boolean') return value;
    throw this.#wrong(key, 'true or false');
  }

  integer(key: string, min: number, max: number): number | undefined {
    this.#asked.add(key);
    const value = this.#table[key];
    if (value === undefined) return undefined;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
      throw this.#wrong(key, `an integer from ${min} to ${max}`);
    }
    return value;
  }

  section(key: string): Section | undefined {
    const table = this.table(key);
    return table === undefined ? undefined : new Section(table, `${this.#name}${key}.`);
  }

  table(key: string): Table | undefined {
    this.#asked.add(key);
    const value = this.#table[key];
    if (value === undefined) return undefined;
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw this.#wrong(key, 'a table');
    return value as Table;
  }

  strings(key: string): string[] | undefined {
    this.#asked.add(key);
    const value = this.#table[key];
    if (value === undefined) return undefined;
    if (Array.isArray(value) && value.every((item) => typeof item === 'string')) return value;
    throw this.#wrong(key, 'a list of strings');
  }

  keys(): string[] {
    return Object.keys(this.#table);
  }

  unknown(): string[] {
    return Object.keys(this.#table)
      .filter((key) => !this.#asked.has(key))
      .map((key) => `${this.#name}${key}`);
  }
}
