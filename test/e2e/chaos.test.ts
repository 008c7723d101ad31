// A short storm over both shims: what the chaos harness (npm run chaos) does for a minute and fifty containers. Every
// container is accounted for, and nothing is left.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runChaos } from '../chaos/chaos.ts';
import { subject } from './side.ts';

const skip = subject !== 'troupe' && 'examines Troupe';

for (const runtime of ['io.containerd.troupe.v1', 'io.containerd.runc.v2']) {
  test(`a short storm over ${runtime}`, { skip, timeout: 400_000 }, async () => {
    const lines: string[] = [];
    const log = (line: string) => lines.push(line);
    const { complaints } = await runChaos({ seed: 20788, containers: 4, seconds: 2, runtime, log });
    assert.deepEqual(complaints, [], lines.join('\n'));
  });
}
