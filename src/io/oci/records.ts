// The record of a container in its bundle, replaced as a whole, so that a shim that is killed leaves one that can be read.
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ContainerRecord, ContainerRecords } from '../../api/model/ports/container-host.ts';
import { deletedFile, recordFile } from '../../api/model/shim-group.ts';

export function createRecords(): ContainerRecords {
  const replace = (path: string, data: string | Uint8Array) => {
    const temporary = `${path}.new`;
    writeFileSync(temporary, data, { mode: 0o600 });
    renameSync(temporary, path);
  };
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

export function loadRecord(bundle: string): ContainerRecord | undefined {
  let text: string;
  try {
    text = readFileSync(join(bundle, recordFile), 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
  const record = JSON.parse(text) as ContainerRecord;
  return record.format === 1 && record.place?.bundle !== undefined ? record : undefined;
}
