// A content store over real actors in temporary directories, for tests.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { contentActor } from '../../../../src/actors/content/actor.ts';
import {
  type ContentIoProtocol,
  type ContentStore,
  contentPath,
} from '../../../../src/actors/content/protocol.ts';
import {
  type ContentStoreDeps,
  type SharingPolicy,
  startContentStore,
} from '../../../../src/actors/content/store.ts';
import { systemClock } from '../../../../src/api/model/time.ts';
import { createBlobStore, type FileBlobStore } from '../../../../src/io/blobs/store.ts';
import { type MetadataHarness, startMetadata } from '../metadata/harness.ts';

export interface ContentHarness extends AsyncDisposable {
  readonly metadata: MetadataHarness;
  readonly directory: string;
  content: ContentStore;
  blobs: FileBlobStore;
  readonly errors: string[];
  /** Ends the content actor as a kill would, and starts a store over what it left. */
  reopen(): Promise<void>;
  /** Only the actor ends and is started again. */
  restartActor(): Promise<void>;
}

export async function startContent(
  sharingPolicy: SharingPolicy = 'shared',
  more: Pick<ContentStoreDeps, 'settlerLimits'> = {},
): Promise<ContentHarness> {
  const metadata = await startMetadata();
  const { system } = metadata;
  const directory = mkdtempSync(join(tmpdir(), 'troupe-content-'));
  const errors: string[] = [];
  const opened: FileBlobStore[] = [];
  const openBlobs = () => {
    const store = createBlobStore({ directory });
    opened.push(store);
    return store;
  };
  const startActor = () => system.spawn(contentPath, contentActor, { openBlobs });
  const start = async () => {
    const blobs = openBlobs();
    const content = await startContentStore({
      io: system.ref<ContentIoProtocol>(contentPath),
      metadata: metadata.metadata,
      reader: metadata.reader,
      blobs,
      clock: systemClock(),
      sharingPolicy,
      ...more,
      logError: (message, error) => void errors.push(`${message}: ${error}`),
    });
    return { blobs, content };
  };
  let cell = await startActor();
  const { blobs, content } = await start();
  const harness: ContentHarness = {
    metadata,
    directory,
    content,
    blobs,
    errors,
    async restartActor() {
      cell.kill(new Error('killed by the test'));
      await cell.exited;
      cell = await startActor();
    },
    async reopen() {
      await harness.restartActor();
      Object.assign(harness, await start());
    },
    async [Symbol.asyncDispose]() {
      await cell.stop({ kind: 'shutdown' });
      await metadata[Symbol.asyncDispose]();
      for (const store of opened) store.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
  return harness;
}
