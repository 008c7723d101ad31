// The files of a configuration: the one that is named, and those that it imports.
import { globSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import { fail } from '../../api/model/errors.ts';
import type { Table } from './section.ts';

/** More than anybody has reason to split a configuration into. */
const filesMax = 256;

/**
 * Reads `path` and what its `imports` name, in order; paths and patterns are relative to the file that names them. A file
 * that imports says less than what it imports: the later value of a key wins. In `plugins` and the like it is the section
 * of a plugin that is replaced; lists are joined. Throws `not-found` when `path` is missing, unless `optional`.
 */
export function readConfigFiles(path: string, optional: boolean): Table {
  const first = readTable(path, optional);
  if (first === undefined) return {};
  let merged: Table = {};
  const seen = new Set<string>();
  const waiting: { path: string; table: Table }[] = [{ path: resolve(path), table: first }];
  for (let one = waiting.shift(); one !== undefined; one = waiting.shift()) {
    if (seen.has(one.path)) continue;
    seen.add(one.path);
    if (seen.size > filesMax)
      throw fail('invalid-argument', `config: more than ${filesMax} files are imported`);
    merged = merge(merged, one.table);
    for (const imported of importsOf(one.path, one.table)) {
      // Each file once: files that import each other end here.
      if (!seen.has(imported)) waiting.push({ path: imported, table: readTable(imported, false) as Table });
    }
  }
  return merged;
}

function importsOf(path: string, table: Table): string[] {
  const imports = table['imports'] ?? [];
  if (!Array.isArray(imports) || !imports.every((item) => typeof item === 'string')) {
    throw fail('invalid-argument', `config file ${path}: imports must be a list of paths`);
  }
  return imports.flatMap((item: string) => {
    const absolute = resolve(dirname(path), item);
    // A pattern may match nothing, a path must exist.
    return /[*?[]/.test(item) ? globSync(absolute).sort() : [absolute];
  });
}

function readTable(path: string, optional: boolean): Table | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    if (missing && optional) return undefined;
    const reason = missing ? 'does not exist' : `cannot be read: ${(error as Error).message}`;
    throw fail(missing ? 'not-found' : 'invalid-argument', `config file ${path} ${reason}`, error);
  }
  try {
    return parse(text) as Table;
  } catch (error) {
    const where = error instanceof TomlError ? ` (line ${error.line}, column ${error.column})` : '';
    const first = (error as Error).message.split('\n')[0];
    throw fail('invalid-argument', `config file ${path}${where}: ${first}`, error);
  }
}

/** Tables of named sections: a section comes from one file as a whole. */
const sectionTables: ReadonlySet<string> = new Set([
  'plugins',
  'proxy_plugins',
  'stream_processors',
  'timeouts',
]);

function merge(base: Table, over: Table): Table {
  const merged: Record<string, unknown> = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const before = base[key];
    if (Array.isArray(before) && Array.isArray(value)) merged[key] = [...new Set([...before, ...value])];
    else if (isTable(before) && isTable(value)) {
      merged[key] = sectionTables.has(key) ? { ...before, ...value } : merge(before, value);
    } else merged[key] = value;
  }
  return merged;
}

function isTable(value: unknown): value is Table {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
