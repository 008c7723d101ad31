// How long ctr takes to pull and unpack an image of 5 layers with more than 20,000 files, from a registry on loopback.
import { startDaemon } from '../../test/fixtures/daemon.ts';
import { type Compression, crowdedImage } from '../../test/fixtures/image.ts';
import { startRegistry } from '../../test/fixtures/registry.ts';
import { mediums, parentOf, type Question } from '../harness.ts';

export const question: Question = {
  name: 'pull',
  asks: '`ctr images pull` on an empty root, from start to end: 5 layers, 20,480 files and some 400 links, about 90 MB of files; the registry keeps its store in memory.',
  async run(bench) {
    await using registry = await startRegistry('/dev/shm');
    const compressions: Compression[] = bench.quick ? ['gzip'] : ['gzip', 'zstd'];
    for (const compression of compressions) {
      const image = await crowdedImage({ layerCount: 5, filesPerLayer: 5_120, compression });
      const ref = await registry.push(image, 'library/crowd', compression);
      for (const medium of mediums) {
        const roundCount = bench.quick ? 1 : 3;
        await bench.alternate({ medium, unit: 's', better: 'lower', roundCount }, async (kind) => {
          await using daemon = await startDaemon(kind, { parent: parentOf(medium) });
          const before = performance.now();
          await daemon.ctrOk(['images', 'pull', '--plain-http', ref], { timeoutMs: 180_000 });
          return { [`pull and unpack, ${compression}`]: (performance.now() - before) / 1000 };
        });
      }
    }
  },
};
