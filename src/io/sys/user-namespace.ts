// User namespaces for ID-mapped mounts: the kernel takes a map only as the namespace of some process, so a child is
// started in a new one, its maps are written, and it ends as soon as the namespace is held by a descriptor.
import { closeSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { fail, wrap } from '../../api/model/errors.ts';
import { findProgram } from './programs.ts';
import { openSpawn } from './spawn.ts';

const entriesMax = 340;
const sigKill = 9;
const reapTriesMax = 2000;

/** `0:1000:65536,65536:0:1` as /proc/PID/uid_map wants it (user_namespaces(7)). */
function mapLines(map: string): string {
  const entries = map.split(',');
  const fields = entries.map((entry) => /^(\d{1,10}):(\d{1,10}):(\d{1,10})$/.exec(entry));
  if (entries.length > entriesMax || fields.includes(null)) {
    throw fail('invalid-argument', `ID map ${JSON.stringify(map.slice(0, 200))} is not usable`);
  }
  return fields.map((field) => `${field?.[1]} ${field?.[2]} ${field?.[3]}`).join('\n');
}

function program(name: string): string {
  const found = findProgram(name);
  if (found === undefined)
    throw fail('failed-precondition', `ID-mapped mounts need ${name}(1) on this machine`);
  return found;
}

export function openUserNamespace(uidMap: string, gidMap: string): number {
  const uids = mapLines(uidMap);
  const gids = mapLines(gidMap);
  const child = openSpawn()({
    file: program('unshare'),
    args: ['--user', program('cat')],
    cwd: '/',
    env: {},
  });
  try {
    // What is written comes back once the program runs, and then it is in its new namespace.
    writeSync(child.stdin, '\n');
    if (readSync(child.stdout, Buffer.alloc(1)) !== 1) {
      const text = Buffer.alloc(512);
      const length = readSync(child.stderr, text);
      throw fail('failed-precondition', `no user namespace: ${text.toString('utf8', 0, length).trim()}`);
    }
    writeFileSync(`/proc/${child.pid}/uid_map`, uids);
    writeFileSync(`/proc/${child.pid}/gid_map`, gids);
    return openSync(`/proc/${child.pid}/ns/user`, 'r');
  } catch (error) {
    throw wrap(`user namespace with map ${uidMap} and ${gidMap}`, error);
  } finally {
    for (const fd of [child.stdin, child.stdout, child.stderr]) closeSync(fd);
    end(child.pid, () => child.poll() !== undefined);
  }
}

function end(pid: number, reaped: () => boolean): void {
  try {
    process.kill(pid, sigKill);
  } catch {
    // It has ended by itself; it is still to be reaped.
  }
  const sleep = new Int32Array(new SharedArrayBuffer(4));
  for (let tries = 0; tries < reapTriesMax && !reaped(); tries++) Atomics.wait(sleep, 0, 0, 1);
}
