// `-info` and `-v`: what this shim and the runtime behind it are able to do.
import { readFileSync, writeSync } from 'node:fs';
import { messageOf } from '../../api/model/errors.ts';
import { troupeRuntime } from '../../api/model/shim-group.ts';
import { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import { RuntimeInfo } from '../../api/proto/gen/types/introspection.ts';
import { createCommands } from '../../io/oci/command.ts';
import { createExits } from '../../io/oci/exits.ts';
import { decodeOptions, settingsFrom } from '../../io/oci/settings.ts';
import { openChildren } from '../../io/sys/children.ts';
import { openFdWatch } from '../../io/sys/fd-watch.ts';
import { openPipes } from '../../io/sys/pipes.ts';
import { openSpawnFds } from '../../io/sys/spawn.ts';

const featuresType = 'types.containerd.io/opencontainers/runtime-spec/1/features/Features';
const deadlineMs = 10_000;

export interface ShimVersion {
  readonly version: string;
  readonly revision: string;
}

export function printVersion({ version, revision }: ShimVersion): void {
  writeSync(
    1,
    `${troupeRuntime}\n  Version:  ${version}\n  Revision: ${revision}\n  Node:     ${process.version}\n`,
  );
}

export async function printInfo(version: ShimVersion, env: NodeJS.ProcessEnv): Promise<void> {
  const input = readFileSync(0);
  const given = input.length === 0 ? undefined : Any.decode(input);
  const { binary } = settingsFrom('', decodeOptions(given));
  const watch = openFdWatch();
  try {
    const exits = createExits(openChildren(), watch);
    const commands = createCommands({ spawn: openSpawnFds(), pipes: openPipes(), exits, env });
    let features: Any | undefined;
    try {
      const text = await commands.ask(binary, ['features'], deadlineMs);
      features = { typeUrl: featuresType, value: Buffer.from(text) };
    } catch (error) {
      // Runtimes before 1.1 of runc do not know the word.
      if (!/features|flag|command/i.test(messageOf(error))) throw error;
    }
    const info = RuntimeInfo.create({ name: troupeRuntime, version, options: given, features });
    writeSync(1, RuntimeInfo.encode(info).finish());
  } finally {
    await watch.stop();
  }
}
