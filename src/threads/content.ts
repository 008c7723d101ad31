// The content thread: open ingests, their digests and their disk.
import { contentActor } from '../actors/content/actor.ts';
import { contentPath } from '../actors/content/protocol.ts';
import { createBlobStore } from '../io/blobs/store.ts';
import { actorChild } from '../supervisor/supervisor.ts';
import type { ThreadContext } from '../supervisor/thread.ts';

export interface ContentThreadData {
  /** Directory of the blob store. */
  directory: string;
}

export async function start({ data, system, supervisor }: ThreadContext<ContentThreadData>): Promise<void> {
  const args = { openBlobs: () => createBlobStore({ directory: data.directory }) };
  await supervisor.startChild(
    actorChild(system, 'actor', contentActor, args, { restart: 'permanent', path: contentPath }),
  );
}
