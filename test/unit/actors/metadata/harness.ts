// A metadata actor over a store in a temporary directory, for tests.
import { ftruncateSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type MetadataArgs, metadataActor } from '../../../../src/actors/metadata/actor.ts';
import {
  type MetadataProtocol,
  type MetadataReader,
  metadataPath,
} from '../../../../src/actors/metadata/protocol.ts';
import { metadataReader } from '../../../../src/actors/metadata/reader.ts';
import { type MetadataStoreReader, tables } from '../../../../src/actors/metadata/schema.ts';
import { systemClock } from '../../../../src/api/model/time.ts';
import { Envelope } from '../../../../src/api/proto/gen/types/event.ts';
import { LocalCheckpointer, openJournaled, StoreSlot } from '../../../../src/io/journal/open.ts';
import { ActorSystem } from '../../../../src/supervisor/system.ts';
import type { ActorRef } from '../../../../src/supervisor/types.ts';
import { fastDirectory } from '../../../fixtures/scratch.ts';

export interface MetadataHarness extends AsyncDisposable {
  system: ActorSystem;
  metadata: ActorRef<MetadataProtocol>;
  reader: MetadataReader;
  /** What was published, in order. */
  events: Envelope[];
  errors: string[];
  view: MetadataStoreReader['read'];
  /** Stops the actor and starts another one on the same directory. */
  reopen(): Promise<void>;
}

export async function startMetadata(args: Pick<MetadataArgs, 'eventLog'> = {}): Promise<MetadataHarness> {
  const dir = mkdtempSync(join(fastDirectory(), 'troupe-metadata-'));
  const options = { path: dir, tables, mapSizeBytes: 256 * 1024 * 1024 };
  const system = new ActorSystem({ name: 'test' });
  const events: Envelope[] = [];
  const errors: string[] = [];
  const start = () =>
    system.spawn(metadataPath, metadataActor, {
      openStore: () => store.open(),
      ...args,
      clock: systemClock(),
      publish: (envelopes) => void events.push(...envelopes.map((bytes) => Envelope.decode(bytes))),
      logError: (message) => void errors.push(message),
    });
  const checkpointer = new LocalCheckpointer(options);
  const store = new StoreSlot(() =>
    openJournaled({
      ...options,
      checkpointer,
      allocate: (fd, offset, length) => ftruncateSync(fd, offset + length),
    }),
  );
  let actor = await start();
  return {
    system,
    metadata: system.ref<MetadataProtocol>(metadataPath),
    reader: metadataReader(store),
    events,
    errors,
    view: (work) => store.read(work),
    async reopen() {
      await actor.stop({ kind: 'shutdown' });
      actor = await start();
    },
    async [Symbol.asyncDispose]() {
      await actor.stop({ kind: 'shutdown' });
      await store.close();
      await checkpointer.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
