// Logging programs of `binary://` and `binary-v2://`: they read the container's output from descriptors 3 and 4 and say on 5
// that they are ready.
import { closeSync, openSync, readSync } from 'node:fs';
import { fail, messageOf } from '../../api/model/errors.ts';
import type { ExitWatch, StdioOwner } from '../../api/model/ports/container-host.ts';
import { epollEvent, type FdWatch } from '../sys/fd-watch.ts';
import type { Pipes } from '../sys/pipes.ts';
import type { SpawnFds } from '../sys/spawn.ts';
import { type Ends, type OutputTarget, openDeadlineMs } from './streams.ts';

/** Between SIGTERM and SIGKILL. */
const stopMs = 12_000;

export interface Logger {
  readonly stdout: number;
  readonly stderr: number;
  /** Asks it to end, and sees to it that it does. */
  stop(): void;
}

export interface LoggerDeps {
  readonly spawn: SpawnFds;
  readonly pipes: Pipes;
  readonly exits: ExitWatch;
  readonly watch: FdWatch;
}

export async function startLogger(
  target: OutputTarget,
  owner: StdioOwner,
  ends: Ends,
  { spawn, pipes, exits, watch }: LoggerDeps,
): Promise<Logger> {
  const pipe = () => {
    const { read, write } = pipes.pipe();
    pipes.setBlocking(read, true);
    return { read: ends.keep(read), write: ends.keep(write) };
  };
  const [stdout, stderr, ready] = [pipe(), pipe(), pipe()];
  pipes.setBlocking(ready.read, false);
  const args = [...new Set(target.query.keys())].flatMap((key) => [key, target.query.get(key) ?? '']);
  const none = ends.keep(openSync('/dev/null', 'r+'));
  let pid: number;
  try {
    pid = spawn({
      file: target.path,
      args,
      cwd: '/',
      env: { CONTAINER_ID: owner.name, CONTAINER_NAMESPACE: owner.namespace },
      fds: [none, none, none, stdout.read, stderr.read, ready.write],
    });
  } catch (error) {
    throw fail('unknown', `start logger ${target.path}: ${messageOf(error)}`, error);
  }
  let ended = false;
  const watched = exits.watch(pid, () => {
    ended = true;
  });
  ends.close([none, stdout.read, stderr.read, ready.write]);
  const stop = () => {
    if (ended || !watched.signal(15)) return;
    setTimeout(() => {
      if (!ended) watched.signal(9);
    }, stopMs).unref();
  };
  try {
    const said = await readiness(ready.read, watch);
    if (said === 'late') throw fail('deadline-exceeded', `logger ${target.path} is not ready`);
    if (said === 'end' && target.scheme === 'binary-v2') {
      throw fail('unknown', `logger ${target.path} ended without saying that it is ready`);
    }
  } catch (error) {
    stop();
    throw error;
  } finally {
    ends.release(ready.read);
    closeSync(ready.read);
  }
  return { stdout: stdout.write, stderr: stderr.write, stop };
}

function readiness(fd: number, watch: FdWatch): Promise<'byte' | 'end' | 'late'> {
  return new Promise((resolve) => {
    const settle = (how: 'byte' | 'end' | 'late') => {
      clearTimeout(timer);
      remove();
      resolve(how);
    };
    const timer = setTimeout(() => settle('late'), openDeadlineMs);
    const remove = watch.add(fd, epollEvent.in | epollEvent.hup, () => {
      try {
        settle(readSync(fd, Buffer.alloc(1), 0, 1, null) === 0 ? 'end' : 'byte');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') settle('end');
      }
    });
  });
}
