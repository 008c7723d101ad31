// The directory of layers in the making: made at start, and cleared of what a killed daemon left there.
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';

/** Nothing else may live in `directory`; call it once, before anything is written there. */
export async function prepareOutputDirectory(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  for (const name of await readdir(directory)) {
    if (name.startsWith('diff-')) await rm(join(directory, name), { force: true });
  }
}
