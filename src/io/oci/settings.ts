// The Options message of the runc shim, understood as that shim does, and what of it is kept in the bundle.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fail } from '../../api/model/errors.ts';
import type { RuntimeSettings } from '../../api/model/ports/container-host.ts';
import type { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import { Options } from '../../api/proto/gen/types/runc/options/oci.ts';

const rootDefault = '/run/containerd/runc';
const binaryDefault = 'runc';
export const optionsType = 'containerd.runc.v1.Options';

export function decodeOptions(options: Any | undefined): Options {
  if (options === undefined || options.typeUrl === '') return Options.create();
  const type = options.typeUrl.slice(options.typeUrl.lastIndexOf('/') + 1);
  if (type !== optionsType) {
    throw fail('unknown', `options of type "${options.typeUrl}": this runtime takes ${optionsType}`);
  }
  return Options.decode(options.value);
}

export function settingsFrom(namespace: string, options: Options): RuntimeSettings {
  return {
    binary: options.binaryName === '' ? binaryDefault : options.binaryName,
    root: join(options.root === '' ? rootDefault : options.root, namespace),
    systemdCgroup: options.systemdCgroup,
    noPivotRoot: options.noPivotRoot,
    noNewKeyring: options.noNewKeyring,
    ioUid: options.ioUid,
    ioGid: options.ioGid,
    criuImagePath: options.criuImagePath,
    criuWorkPath: options.criuWorkPath,
  };
}

/** Writes `options.json` and `runtime` into the bundle, for those who clean up after a shim. */
export function saveOptions(bundle: string, options: Options): void {
  const fields: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options)) {
    if (key.startsWith('_') || value === '' || value === 0 || value === false) continue;
    fields[key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)] = value;
  }
  writeFileSync(join(bundle, 'options.json'), JSON.stringify(fields), { mode: 0o600 });
  writeFileSync(join(bundle, 'runtime'), options.binaryName, { mode: 0o600 });
}

/** What an earlier shim has written there; the defaults when it has not. */
export function loadOptions(bundle: string): Options {
  let text: string;
  try {
    text = readFileSync(join(bundle, 'options.json'), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return Options.create();
    throw error;
  }
  const fields = JSON.parse(text) as Record<string, unknown>;
  return Options.create(
    Object.fromEntries(
      Object.entries(fields).map(([key, value]) => [
        key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
        value,
      ]),
    ),
  );
}
