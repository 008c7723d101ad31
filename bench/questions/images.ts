// Images: pulled and unpacked, and every other way in and out, beside containerd; what a pull costs the others.
import { type Daemon, type Kind, startDaemon } from '../../test/fixtures/daemon.ts';
import { type Compression, crowdedImage, heavyImage } from '../../test/fixtures/image.ts';
import { startRegistry } from '../../test/fixtures/registry.ts';
import { type Bench, type Medium, mediums, parentOf, type Question } from '../harness.ts';
import { largeLayer } from '../large-layer.ts';
import { ctrPull, deadlineMs, ownPull } from '../pulls.ts';
import { type Stock, stockedRegistry } from '../stocked-registry.ts';

export const question: Question = {
  name: 'images',
  asks: "An image of 5 layers (about 780 MB, 50,000 files; quick: 90 MB, 20,480 files) from a registry on loopback, whose store is in memory, on empty roots. `own client`: Troupe's library against ctr on containerd; `by ctr`: ctr on both. Memory, delays and creates are taken while one layer of 2 GB (quick: 256 MB) is pulled; they have no counterpart where containerd has none.",
  async run(bench) {
    await using registry = await stockedRegistry(bench.quick ? 'quick' : 'full', stocksOf(bench));
    for (const compression of ['gzip', 'zstd'] as const) {
      const ref = `${registry.host}/library/crowd:${compression}`;
      for (const medium of mediums) {
        await pulls(bench, medium, compression, ref);
        if (compression === 'gzip') await ways(bench, medium, ref);
      }
    }
    await largeLayer(bench, `${registry.host}/library/heavy:x`);
  },
};

function stocksOf({ quick }: Bench): Stock[] {
  const crowd = quick
    ? { layerCount: 5, filesPerLayer: 5_120 }
    : { layerCount: 5, filesPerLayer: 12_500, fileBytesMax: 65_536 };
  const large = { files: quick ? 4 : 32, fileBytes: 64 * 1024 * 1024 };
  return [
    ...(['gzip', 'zstd'] as const).map((compression) => ({
      name: `library/crowd:${compression}`,
      recipe: JSON.stringify(crowd),
      make: () => crowdedImage({ ...crowd, compression }),
    })),
    { name: 'library/heavy:x', recipe: JSON.stringify(large), make: () => heavyImage(large) },
  ];
}

const roundsOf = (bench: Bench): number => (bench.quick ? 2 : 3);

async function pulls(bench: Bench, medium: Medium, compression: Compression, ref: string): Promise<void> {
  const own = `pull and unpack, ${compression}, own client`;
  const byCtr = `pull and unpack, ${compression}, by ctr`;
  await bench.alternate(
    {
      ...{ medium, unit: 's', better: 'lower', roundCount: roundsOf(bench) },
      goals: medium === 'tmpfs' ? { [own]: { ratioMin: 3 }, [byCtr]: { ratioMin: 1.5 } } : {},
    },
    async (kind) => {
      const ctr = await pullSeconds(kind, medium, (daemon) => ctrPull(daemon, ref));
      if (kind === 'containerd') return { [own]: ctr, [byCtr]: ctr };
      return { [own]: await pullSeconds(kind, medium, (daemon) => ownPull(daemon, ref)), [byCtr]: ctr };
    },
  );
}

async function pullSeconds(
  kind: Kind,
  medium: Medium,
  pull: (daemon: Daemon) => Promise<void>,
): Promise<number> {
  await using daemon = await startDaemon(kind, { parent: parentOf(medium) });
  return await seconds(() => pull(daemon));
}

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const before = performance.now();
  await work();
  return (performance.now() - before) / 1000;
}

async function ways(bench: Bench, medium: Medium, ref: string): Promise<void> {
  const goal = { ratioMin: 1 };
  await bench.alternate(
    {
      ...{ medium, unit: 's', better: 'lower', roundCount: roundsOf(bench) },
      goals: { 'export by ctr': goal, 'import by ctr': goal, 'push by ctr': goal },
    },
    async (kind) => {
      await using daemon = await startDaemon(kind, { parent: parentOf(medium) });
      await ctrPull(daemon, ref);
      const options = { timeoutMs: deadlineMs };
      const archive = `${daemon.directory}/image.tar`;
      const exported = await seconds(() => daemon.ctrOk(['images', 'export', archive, ref], options));
      // A registry that has nothing: every blob is read from the store and sent.
      await using empty = await startRegistry('/dev/shm');
      const other = `${empty.host}/bench/crowd:x`;
      await daemon.ctrOk(['images', 'tag', ref, other]);
      const push = ['images', 'push', '--plain-http', other];
      const pushed = await seconds(() => daemon.ctrOk(push, options));
      await using fresh = await startDaemon(kind, { parent: parentOf(medium) });
      const imported = await seconds(() => fresh.ctrOk(['images', 'import', archive], options));
      return { 'export by ctr': exported, 'import by ctr': imported, 'push by ctr': pushed };
    },
  );
}
