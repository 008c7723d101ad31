// A registry whose images take minutes to make: they are made once, and its store is kept in .cache/bench.
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { BuiltImage } from '../test/fixtures/image.ts';
import { type Registry, startRegistry } from '../test/fixtures/registry.ts';

export interface Stock {
  /** `repository:tag`. */
  readonly name: string;
  /** What the image is made by; another text makes another image. */
  readonly recipe: string;
  make(): Promise<BuiltImage>;
}

const cacheDirectory = fileURLToPath(new URL('../.cache/bench/', import.meta.url));
const maker = new URL('../test/fixtures/image.ts', import.meta.url);

/** Starts a registry that holds these images, its store in memory. What was kept under this label and is older goes. */
export async function stockedRegistry(label: string, stocks: readonly Stock[]): Promise<Registry> {
  const recipes = stocks.map(({ name, recipe }) => `${name} ${recipe}`).join('\n');
  const key = createHash('sha256').update(readFileSync(maker)).update(recipes).digest('hex').slice(0, 16);
  const kept = `${cacheDirectory}${label}-${key}`;
  if (!existsSync(kept)) {
    mkdirSync(cacheDirectory, { recursive: true });
    for (const name of readdirSync(cacheDirectory)) {
      if (name.startsWith(`${label}-`)) rmSync(cacheDirectory + name, { recursive: true, force: true });
    }
    await stock(stocks, kept);
  }
  return startRegistry('/dev/shm', kept);
}

async function stock(stocks: readonly Stock[], kept: string): Promise<void> {
  await using registry = await startRegistry('/dev/shm');
  for (const { name, make } of stocks) {
    const [repository, tag] = name.split(':') as [string, string];
    await registry.push(await make(), repository, tag);
  }
  const half = `${kept}.${process.pid}`;
  try {
    cpSync(registry.store, half, { recursive: true });
    renameSync(half, kept);
  } finally {
    rmSync(half, { recursive: true, force: true });
  }
}
