// The record of a container in its bundle, replaced as a whole, so that a shim that is killed leaves one that can be read.
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type {
  ContainerRecord,
  ContainerRecords,
  SandboxRecord,
  SandboxRecords,
} from '../../api/model/ports/container-host.ts';
import { deletedFile, recordFile, sandboxFile } from '../../api/model/shim-group.ts';

function replace(path: string, data: string | Uint8Array): void {
  const temporary = `${path}.new`;
  writeFileSync(temporary, data, { mode: 0o600 });
  renameSync(temporary, path);
}

export function createRecords(): ContainerRecords {
  return {
    save: (record) => replace(join(record.place.bundle, recordFile), JSON.stringify(record)),
    load: loadRecord,
    forget: (bundle) => rmSync(join(bundle, recordFile), { force: true }),
    deleted(bundle, response) {
      if (!existsSync(bundle)) return;
      replace(join(bundle, deletedFile), response);
      rmSync(join(bundle, recordFile), { force: true });
    },
  };
}

export function createSandboxRecords(): SandboxRecords {
  return {
    save: (bundle, record) => replace(join(bundle, sandboxFile), JSON.stringify(record)),
    load(bundle) {
      const text = readIfThere(join(bundle, sandboxFile));
      if (text === undefined) return undefined;
      const record = JSON.parse(text) as SandboxRecord;
      return record.format === 1 ? record : undefined;
    },
    forget: (bundle) => rmSync(join(bundle, sandboxFile), { force: true }),
  };
}

export function loadRecord(bundle: string): ContainerRecord | undefined {
  const text = readIfThere(join(bundle, recordFile));
  if (text === undefined) return undefined;
  const record = JSON.parse(text) as ContainerRecord;
  return record.format === 1 && record.place?.bundle !== undefined ? record : undefined;
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
}
