// Images for the pulls of a crash trial, in a registry of its own: small layers, some of them shared.
import {
  type BuiltManifest,
  buildLayer,
  buildManifest,
  type Compression,
  type Entry,
  type Layer,
} from '../fixtures/image.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { Random } from '../sim/random.ts';

export interface PullableImage {
  readonly reference: string;
  readonly built: BuiltManifest;
  /** The file by which each layer is known, from the lowest layer up. */
  readonly marks: readonly string[];
}

export interface CrashRegistry extends AsyncDisposable {
  readonly images: readonly PullableImage[];
}

const imageCount = 4;
const filesPerLayer = 6;
const fileBytesMax = 30_000;

async function layer(random: Random, mark: string, compression: Compression): Promise<Layer> {
  const entries: Entry[] = [{ name: mark, content: `layer ${mark}` }];
  for (let index = 0; index < filesPerLayer; index++) {
    const content = Buffer.alloc(random.int(1, fileBytesMax));
    for (let at = 0; at + 4 <= content.length; at += 4) content.writeUInt32LE(random.int(0, 2 ** 32 - 1), at);
    entries.push({ name: `d${index % 2}/${mark}-${index}`, content });
  }
  return buildLayer(entries, compression);
}

/** Starts the registry, with its store below `parent`. */
export async function crashRegistry(seed: number, parent?: string): Promise<CrashRegistry> {
  const random = new Random(seed);
  await using stack = new AsyncDisposableStack();
  const registry = stack.use(await startRegistry(parent));
  const base = await layer(random, 'base', 'gzip');
  const images: PullableImage[] = [];
  for (let index = 0; index < imageCount; index++) {
    const marks = ['base', `a${index}`, `b${index}`];
    const above = [await layer(random, `a${index}`, 'zstd'), await layer(random, `b${index}`, 'none')];
    const built = buildManifest([base, ...above]);
    const reference = await registry.push({ manifests: [built] }, 'library/noise', `t${index}`);
    images.push({ reference, built, marks });
  }
  const owned = stack.move();
  return { images, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
