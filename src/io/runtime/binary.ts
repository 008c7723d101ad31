// From the name of a runtime to the shim binary that serves it.
import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, isAbsolute, join, resolve } from 'node:path';
import { fail } from '../../api/model/errors.ts';

/** `io.containerd.runc.v2` is served by `containerd-shim-runc-v2`; throws `unknown` for names of another form. */
export function binaryNameOf(runtime: string): string {
  const parts = runtime.split('.');
  if (parts.length < 2 || parts[0] === '' || runtime.includes('/')) {
    throw fail(
      'unknown',
      `invalid runtime name ${runtime}, correct runtime name should be either format like ` +
        '`io.containerd.runc.v1` or a full path to the binary',
    );
  }
  return `containerd-shim-${parts.at(-2)}-${parts.at(-1)}`;
}

/** Looks binaries up in the working directory, in PATH and in the directories given; what it found it remembers. */
export class BinaryResolver {
  readonly #directories: readonly string[];
  readonly #found = new Map<string, string>();

  constructor(path: string, extraDirectories: readonly string[]) {
    this.#directories = ['.', ...path.split(delimiter).filter((dir) => dir !== ''), ...extraDirectories];
  }

  /** Errors are of class `unknown` and name the runtime. */
  async resolve(runtime: string): Promise<string> {
    if (runtime === '') throw fail('unknown', 'no runtime name');
    if (isAbsolute(runtime)) {
      if (isFile(runtime)) return runtime;
      throw fail('unknown', `invalid custom binary path: stat ${runtime}: no such file or directory`);
    }
    const name = binaryNameOf(runtime);
    const known = this.#found.get(name);
    if (known !== undefined && isFile(known)) return known;
    for (const directory of this.#directories) {
      const candidate = resolve(join(directory, name));
      if (!isExecutable(candidate)) continue;
      this.#found.set(name, candidate);
      return candidate;
    }
    throw fail('unknown', `runtime "${runtime}" binary not installed "${name}": file does not exist`);
  }
}

function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function isExecutable(path: string): boolean {
  if (!isFile(path)) return false;
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
