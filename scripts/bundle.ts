// Bundles the programs and the modules of their threads into dist/app: one file each and what they share, instead of
// hundreds of modules that every start would have to find, read and link.
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, type Plugin } from 'esbuild';

const root = fileURLToPath(new URL('../', import.meta.url));
const source = join(root, 'src');
const dist = join(root, 'dist');

/** What runs in one thread or process together, by paths below src, and below dist: what stands there leads to it. */
const groups: Readonly<Record<string, readonly string[]>> = {
  daemon: ['daemon'],
  shim: ['shim'],
  cli: ['cli', 'check'],
  insider: ['threads/insider'],
  thread: ['supervisor/thread-main', 'threads/content'],
  pool: ['supervisor/pool-main', 'threads/jobs', 'threads/layers', 'threads/store'],
};

/** Native code, and a pool that starts its threads with a file of its own. */
const external = ['*.node', 'piscina'];

/** In front of every file: what packages expect of CommonJS, and where a package is. */
const banner = `import { createRequire as requireFrom } from 'node:module';
import { pathToFileURL as urlOfPath } from 'node:url';
const require = requireFrom(import.meta.url);
const urlOfPackage = (name) => urlOfPath(require.resolve(name)).href;`;

/** A bundled module looks for the files of the package from where it would stand in dist by itself. */
const keepPlaces: Plugin = {
  name: 'keep-places',
  setup({ onLoad }) {
    onLoad({ filter: /\.ts$/ }, ({ path }) => {
      const text = readFileSync(path, 'utf8');
      const place = `../../${relative(source, path).replace(/\.ts$/, '.js')}`;
      const url = `new URL(${JSON.stringify(place)}, import.meta.url).href`;
      return { contents: text.replaceAll('import.meta.url', url), loader: 'ts' };
    });
  },
};

/** Looks first for the build that Linux with glibc takes: finding out what the machine is took longer than all of LMDB. */
const lmdbLoader = `import { createRequire } from 'node:module';
export default (directory) => {
  const load = createRequire(directory + '/package.json');
  try {
    return load('@lmdb/lmdb-' + process.platform + '-' + process.arch + '/node.napi.glibc.node');
  } catch {
    return load('node-gyp-build-optional-packages')(directory);
  }
};`;

/** The JavaScript of native packages is bundled; it finds its native part from where the package is. */
const nativePackages: Plugin = {
  name: 'native-packages',
  setup({ onLoad, onResolve }) {
    onLoad({ filter: /\/node_modules\/(koffi|lmdb)\/.*\.js$/ }, ({ path }) => {
      const name = /\/node_modules\/(koffi|lmdb)\//.exec(path)?.[1];
      const text = readFileSync(path, 'utf8');
      return { contents: text.replaceAll('import.meta.url', `urlOfPackage('${name}')`), loader: 'js' };
    });
    onResolve({ filter: /^node-gyp-build-optional-packages$/ }, () => ({
      path: 'lmdb',
      namespace: 'loader',
    }));
    onLoad({ filter: /^lmdb$/, namespace: 'loader' }, () => ({ contents: lmdbLoader, loader: 'js' }));
    // Nothing is kept as msgpack: its own native part is not worth loading.
    onLoad({ filter: /\/node_modules\/msgpackr\/node-index\.js$/ }, ({ path }) => ({
      contents: "export * from './index.js';",
      loader: 'js',
      resolveDir: dirname(path),
    }));
  },
};

const flat = (entry: string): string => entry.replaceAll('/', '-');

// Its time is that of the beginning: what changes while it is read makes the result one that is out of date.
rmSync(join(dist, 'BUILT'), { force: true });
rmSync(join(dist, 'app'), { recursive: true, force: true });
mkdirSync(dist, { recursive: true });
writeFileSync(join(dist, 'BUILDING'), '');
for (const [group, entries] of Object.entries(groups)) {
  await build({
    absWorkingDir: root,
    entryPoints: Object.fromEntries(entries.map((entry) => [flat(entry), join(source, `${entry}.ts`)])),
    outdir: join(dist, 'app', group),
    bundle: true,
    // What is loaded when it is used stays apart.
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node26',
    external,
    plugins: [keepPlaces, nativePackages],
    banner: { js: banner },
    // Names stay: traces and actors show them.
    minifyWhitespace: true,
    minifySyntax: true,
    legalComments: 'linked',
    logLevel: 'warning',
  });
  for (const entry of entries) {
    const path = join(dist, `${entry}.js`);
    mkdirSync(dirname(path), { recursive: true });
    const up = '../'.repeat(entry.split('/').length - 1) || './';
    writeFileSync(path, `export * from '${up}app/${group}/${flat(entry)}.js';\n`);
  }
}
renameSync(join(dist, 'BUILDING'), join(dist, 'BUILT'));
