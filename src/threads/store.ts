// The job of the store thread: checkpoints. It imports little, comes when there is something to do, and goes again.
import type { CheckpointJob } from '../io/journal/checkpoint.ts';
import { LocalCheckpointer } from '../io/journal/open.ts';

export interface StoreJob extends CheckpointJob {
  /** Directory of the store. */
  storePath: string;
  tables: readonly string[];
}

let open: { path: string; checkpointer: LocalCheckpointer } | undefined;

export async function checkpoint({ storePath, tables, ...job }: StoreJob): Promise<void> {
  if (open?.path !== storePath) {
    open = { path: storePath, checkpointer: new LocalCheckpointer({ path: storePath, tables, onDead }) };
  }
  await open.checkpointer.run(job);
}

function onDead(error: unknown): void {
  process.stderr.write(
    `trouped: the metadata store has failed: the daemon ends and has to be started anew: ${error}\n`,
  );
  // At once: whoever cannot read what is recorded must not go on to remove what seems to belong to nobody.
  process.kill(process.pid, 'SIGKILL');
}
