// An editor on a file, with the terminal of this process in its hands.
import { spawn } from 'node:child_process';
import { fail } from '../../api/model/errors.ts';

/** Resolves when the editor ended well. Its name may carry arguments, so a shell reads it, as others do with EDITOR. */
export function runEditor(editor: string, file: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('/bin/sh', ['-c', `${editor} "$1"`, 'sh', file], { stdio: 'inherit', signal });
    child.on('error', reject);
    child.on('close', (status) => {
      if (status === 0) resolve();
      else reject(fail('failed-precondition', `${editor} ended with status ${status}; nothing is kept`));
    });
  });
}
