// The contract of every store, over gRPC: what clients of containerd rely on, shown on Troupe, and on Debian's
// containerd so that it is known to be the contract.
import { type TestContext, test } from 'node:test';
import { type Kind, startDaemon } from '../fixtures/daemon.ts';
import { containersSuite } from '../suites/stores/containers.ts';
import { contentSuite } from '../suites/stores/content.ts';
import { edgesSuite } from '../suites/stores/edges.ts';
import { imagesSuite } from '../suites/stores/images.ts';
import { leasesSuite } from '../suites/stores/leases.ts';
import { mountsSuite } from '../suites/stores/mounts.ts';
import { namespacesSuite } from '../suites/stores/namespaces.ts';
import { sandboxesSuite } from '../suites/stores/sandboxes.ts';
import { snapshotsSuite } from '../suites/stores/snapshots.ts';
import { type StoreSubject, Suite } from '../suites/stores/subject.ts';

const suites: Readonly<Record<string, (suite: Suite) => Promise<void>>> = {
  edges: edgesSuite,
  namespaces: namespacesSuite,
  containers: containersSuite,
  images: imagesSuite,
  content: contentSuite,
  snapshots: snapshotsSuite,
  leases: leasesSuite,
  sandboxes: sandboxesSuite,
  mounts: mountsSuite,
};

// What nothing refers to stays until a test asks for a collection.
const noCollection = [
  '[plugins."io.containerd.gc.v1.scheduler"]',
  'startup_delay = "1h"',
  'schedule_delay = "0ms"',
  'mutation_threshold = 1000000',
  // The next look after a deletion is this share of a pause away: minutes.
  'pause_threshold = 0.00001',
  '',
].join('\n');

async function contract(t: TestContext, kind: Kind): Promise<void> {
  await using daemon = await startDaemon(kind, { config: noCollection });
  using client = daemon.grpc();
  const version = kind === 'troupe' ? '2.3' : '1.6';
  const subject: StoreSubject = {
    client,
    prefix: daemon.namespace,
    root: daemon.root,
    version,
    snapshotter: 'native',
  };
  const only = process.env['TROUPE_CONTRACT_ONLY'];
  for (const [name, run] of Object.entries(suites)) {
    if (only === undefined || only === name)
      await t.test(name, (context) => run(new Suite(context, subject)));
  }
}

test('stores of troupe', (t) => contract(t, 'troupe'));
test('stores of containerd', (t) => contract(t, 'containerd'));
