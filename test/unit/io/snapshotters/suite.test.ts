// The directory-based snapshotters against the contract of snapshotters.
import { inlineTreeJobs } from '../../../../src/io/snapshotters/jobs.ts';
import { createNative } from '../../../../src/io/snapshotters/native.ts';
import { probeOverlay } from '../../../../src/io/snapshotters/overlay-probe.ts';
import { createOverlayfs } from '../../../../src/io/snapshotters/overlayfs.ts';
import { smallTreesInPlace } from '../../../../src/io/snapshotters/small-trees.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { snapshotterSuite } from '../../../suites/snapshotter.ts';

snapshotterSuite(
  'overlayfs',
  (root) => {
    const sys = createSys();
    const features = probeOverlay(root, sys);
    return createOverlayfs({ root, features, jobs: smallTreesInPlace(inlineTreeJobs(() => sys)) });
  },
  { rebases: true, measuresOwnData: true },
);

snapshotterSuite('native', (root) => createNative({ root, jobs: inlineTreeJobs(createSys) }), {
  rebases: false,
  measuresOwnData: false,
});
