// Where helper programs are installed, whatever PATH the daemon was started with.
import { existsSync } from 'node:fs';

export const programDirectories = [
  '/usr/local/sbin',
  '/usr/local/bin',
  '/usr/sbin',
  '/usr/bin',
  '/sbin',
  '/bin',
];

/** Undefined when it is not installed. */
export function findProgram(name: string): string | undefined {
  return programDirectories.map((directory) => `${directory}/${name}`).find((file) => existsSync(file));
}
