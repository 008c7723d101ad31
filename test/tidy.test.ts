// Holds the layer table of ARCHITECTURE.md and the style that a machine can check.
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../', import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const sources = globSync('src/**/*.ts', { cwd: root }).filter(
  (path) => !path.startsWith('src/api/proto/gen/'),
);
const tests = globSync('{test,bench}/**/*.ts', { cwd: root });

// The aim is 300; beyond these two ideas share a room.
const sourceLinesMax = 450;
const testLinesMax = 600;

/** Source without its comments. */
function uncommented(source: string): string {
  return source.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|[^:'"`\\])\/\/.*$/gm, '$1');
}

/** Source without comments and without the inside of string literals, so that words there are no code. */
function codeOf(source: string): string {
  return uncommented(source).replace(/'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"/g, "''");
}

interface Import {
  specifier: string;
  /** Path in the repository, for a relative import. */
  path?: string;
  typeOnly: boolean;
}

// An import or re-export, on one line or several, and import() with a literal.
const importPattern =
  /^(?:import|export)\s+(type\s)?(?:[^'";]*?\sfrom\s+)?['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]\s*\)/gm;

function importsOf(path: string): Import[] {
  return [...uncommented(read(path)).matchAll(importPattern)].map((m) => {
    const specifier = (m[2] ?? m[3])!;
    const typeOnly = m[1] !== undefined;
    if (!specifier.startsWith('.')) return { specifier, typeOnly };
    return { specifier, path: relative(root, join(root, dirname(path), specifier)), typeOnly };
  });
}

interface Room {
  /** What the first column of the table calls it. */
  name: string;
  /** What the second column says. */
  says: string;
  /** Paths below src/ that belong to it; the longest match over all rooms decides. */
  holds: string[];
  /** Rooms or paths below src/ that it may import beside itself; undefined means everything. */
  imports: ((path: string, typeOnly: boolean) => boolean) | undefined;
}

const below =
  (...prefixes: string[]) =>
  (path: string): boolean =>
    prefixes.some((prefix) => path.startsWith(prefix));
const gen = below('api/proto/gen/');
const model = below('api/model/', 'api/proto/gen/');
const core = below('api/model/', 'api/proto/gen/', 'supervisor/');
const face = /^actors\/[\w-]+\/(?:[\w-]+\/)?protocol\.ts$/;

const rooms: Room[] = [
  { name: 'api/model', says: 'api/proto/gen', holds: ['api/model/'], imports: gen },
  { name: 'supervisor', says: 'nothing of ours', holds: ['supervisor/'], imports: () => false },
  { name: 'io', says: 'api/model, gen', holds: ['io/'], imports: model },
  {
    name: 'actors',
    says: 'api/model, gen, supervisor; io only through ports handed in',
    holds: ['actors/'],
    imports: core,
  },
  { name: 'api/h2', says: 'api/model', holds: ['api/h2/'], imports: below('api/model/') },
  {
    name: 'api/grpc, ttrpc, proxy',
    says: 'api/h2, api/model, gen, supervisor, `actors/*/protocol.ts` (types)',
    holds: ['api/grpc/', 'api/ttrpc/', 'api/proxy/'],
    imports: (path, typeOnly) => core(path) || path.startsWith('api/h2/') || (typeOnly && face.test(path)),
  },
  {
    name: 'api/client',
    says: 'api/model, gen, io/registry, io/archive',
    holds: ['api/client/'],
    imports: below('api/model/', 'api/proto/gen/', 'io/registry/', 'io/archive/'),
  },
  {
    name: 'api/cli',
    says: 'api/client, api/model',
    holds: ['api/cli/'],
    imports: below('api/client/', 'api/model/'),
  },
  {
    name: 'daemon, cli, boot, threads',
    says: 'everything',
    holds: ['daemon.ts', 'cli.ts', 'shim.ts', 'check.ts', 'threads/', 'boot/'],
    imports: undefined,
  },
];

function roomOf(path: string): Room {
  const found = rooms.find((room) => room.holds.some((prefix) => path.startsWith(prefix)));
  assert.ok(found !== undefined, `src/${path} is in no room of the layer table`);
  return found;
}

test('ARCHITECTURE.md has the layer table that is held here', () => {
  const text = read('ARCHITECTURE.md');
  const missing = rooms.map((room) => `| ${room.name} | ${room.says} |`).filter((row) => !text.includes(row));
  assert.deepEqual(missing, []);
});

test('arrows between rooms go one way', () => {
  const wrong: string[] = [];
  for (const source of sources) {
    const from = source.slice('src/'.length);
    const room = roomOf(from);
    for (const { path, typeOnly } of importsOf(source)) {
      if (path === undefined || room.imports === undefined) continue;
      if (!path.startsWith('src/')) wrong.push(`${source} leaves src: ${path}`);
      const to = path.slice('src/'.length);
      const home = room.holds.some((prefix) => from.startsWith(prefix) && to.startsWith(prefix));
      if (!home && !room.imports(to, typeOnly)) wrong.push(`${source} -> ${path}`);
    }
  }
  assert.deepEqual(wrong, []);
});

// Where a dependency may be imported, below src/; each is named in ARCHITECTURE.md with what it is for.
const dependencyHomes: Record<string, string[]> = {
  '@bufbuild/protobuf': ['api/', 'io/', 'actors/', 'boot/'],
  '@grpc/grpc-js': ['api/grpc/', 'api/client/', 'api/proxy/', 'boot/'],
  'cli-progress': ['api/cli/'],
  comlink: ['supervisor/'],
  commander: ['api/cli/', 'daemon.ts', 'cli.ts', 'shim.ts', 'check.ts'],
  koffi: ['io/sys/'],
  lmdb: ['io/lmdb/'],
  pino: ['io/log/'],
  piscina: ['supervisor/'],
  re2js: ['api/model/'],
  'smol-toml': ['io/config/', 'io/registry/', 'daemon.ts'],
  'tar-stream': ['io/'],
  undici: ['io/registry/'],
};

// What touches the machine has a room of its own; the faces own their sockets.
const builtinHomes: Record<string, string[]> = {
  // api/client only as the way to make a fifo for callers that hand in none.
  'node:child_process': ['io/', 'boot/', 'api/client/'],
  'node:fs': [
    'io/',
    'api/cli/',
    'api/client/',
    'api/grpc/',
    'api/ttrpc/',
    'boot/',
    'threads/',
    'daemon.ts',
    'cli.ts',
    'shim.ts',
  ],
  'node:fs/promises': ['io/', 'api/cli/', 'api/client/', 'api/grpc/', 'api/ttrpc/', 'boot/', 'threads/'],
};

test('dependencies and the machine are imported only where they live', () => {
  const runtime = JSON.parse(read('package.json')) as { dependencies: Record<string, string> };
  const wrong: string[] = [];
  for (const source of sources) {
    for (const { specifier, path } of importsOf(source)) {
      if (path !== undefined) continue;
      const name = specifier.startsWith('@')
        ? specifier.split('/').slice(0, 2).join('/')
        : specifier.split('/')[0]!;
      const homes = specifier.startsWith('node:') ? builtinHomes[specifier] : dependencyHomes[name];
      if (specifier.startsWith('node:') && homes === undefined) continue;
      if (homes === undefined) wrong.push(`${source}: ${name} has no home`);
      else if (!homes.some((home) => source.startsWith(`src/${home}`))) wrong.push(`${source}: ${specifier}`);
      if (!specifier.startsWith('node:') && runtime.dependencies[name] === undefined) {
        wrong.push(`${source}: ${name} is no runtime dependency`);
      }
    }
  }
  assert.deepEqual(wrong, []);
});

test('every runtime dependency is used and has its reason in ARCHITECTURE.md', () => {
  const { dependencies } = JSON.parse(read('package.json')) as { dependencies: Record<string, string> };
  const text = read('ARCHITECTURE.md');
  const section = /^## Dependencies\n([\s\S]*?)(?=^## |$(?![\s\S]))/m.exec(text)?.[1] ?? '';
  assert.notEqual(section, '', 'ARCHITECTURE.md has no section "Dependencies"');
  for (const name of Object.keys(dependencies)) {
    assert.ok(section.includes(`\`${name}\``), `ARCHITECTURE.md does not say what ${name} is for`);
  }
  const imported = new Set(sources.flatMap((source) => importsOf(source).map(({ specifier }) => specifier)));
  for (const name of Object.keys(dependencies)) {
    // `node` is a program that the launchers run, not a module.
    if (name === 'node') continue;
    assert.ok(
      [...imported].some((specifier) => specifier === name || specifier.startsWith(`${name}/`)),
      `nothing imports ${name}`,
    );
  }
});

test('relative imports name the file, with .ts', () => {
  const wrong = [...sources, ...tests].flatMap((source) =>
    importsOf(source)
      .filter(({ path }) => path !== undefined && !(path.endsWith('.ts') && existsSync(join(root, path))))
      .map(({ specifier }) => `${source}: ${specifier}`),
  );
  assert.deepEqual(wrong, []);
});

test('each file says in its first line what it is for', () => {
  const wrong = [...sources, ...tests].filter((source) => !/^\/\/ \S.{14,}/.test(read(source)));
  assert.deepEqual(wrong, []);
});

test('no file is too long', () => {
  const lines = (path: string): number => read(path).split('\n').length - 1;
  const long = [
    ...sources.filter((path) => lines(path) > sourceLinesMax),
    ...tests.filter((path) => lines(path) > testLinesMax),
  ];
  assert.deepEqual(long, []);
});

test('no enum, namespace, console, default export', () => {
  // `any` and unused names are for the linter.
  const rules: readonly (readonly [string, RegExp])[] = [
    ['enum', /^(?:export )?(?:const )?enum \w/m],
    ['namespace', /^(?:export )?(?:declare )?namespace \w/m],
    ['console', /\bconsole\.\w+\(/],
    ['default export', /^export default\b/m],
  ];
  const wrong: string[] = [];
  for (const source of sources) {
    // A declaration file describes what somebody else exports.
    if (source.endsWith('.d.ts')) continue;
    const code = codeOf(read(source));
    for (const [name, pattern] of rules) if (pattern.test(code)) wrong.push(`${source}: ${name}`);
  }
  assert.deepEqual(wrong, []);
});

test('nothing is unfinished by its own words', () => {
  const files = globSync(['src/**/*.{ts,proto}', 'bin/*', 'test/**/*.ts', 'bench/**/*.ts', '*.md'], {
    cwd: root,
  });
  const word = new RegExp(`\\b(?:${['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X'].join('|')})\\b`);
  const wrong = files.filter((path) => !path.startsWith('src/api/proto/gen/') && word.test(read(path)));
  assert.deepEqual(wrong, []);
});

test('importing does nothing: no statement but declarations at the top of a module', () => {
  const entries = new Set([
    'src/daemon.ts',
    'src/cli.ts',
    'src/shim.ts',
    'src/check.ts',
    'src/supervisor/thread-main.ts',
  ]);
  const wrong: string[] = [];
  for (const source of sources) {
    if (entries.has(source) || source.startsWith('src/threads/') || source.endsWith('.d.ts')) continue;
    const lines = codeOf(read(source)).split('\n');
    lines.forEach((line, index) => {
      // A statement at the top of a module starts in the first column.
      if (/^(?:await |void |if |for |while |try |new |process\.|[a-z]\w*(?:\.\w+)*\()/.test(line)) {
        wrong.push(`${source}:${index + 1}: ${line}`);
      }
    });
  }
  assert.deepEqual(wrong, []);
});

test('each port has a contract suite, and each suite is used', () => {
  const suites = globSync('test/suites/*.ts', { cwd: root });
  for (const suite of suites) {
    const name = suite.slice('test/suites/'.length);
    const used = tests.some((path) => path !== suite && read(path).includes(`suites/${name}'`));
    assert.ok(used, `no test runs ${suite}`);
  }
});
