// A pull, by either client.
import { createClient } from '../src/api/client/index.ts';
import type { Daemon } from '../test/fixtures/daemon.ts';

/** For whatever ctr does with a large image. */
export const deadlineMs = 600_000;

export async function ctrPull(daemon: Daemon, ref: string): Promise<void> {
  await daemon.ctrOk(['images', 'pull', '--plain-http', ref], { timeoutMs: deadlineMs });
}

export async function ownPull(daemon: Daemon, ref: string): Promise<void> {
  using client = createClient({ address: daemon.address, namespace: daemon.namespace });
  await client.pull(ref, { plainHttp: true });
}
