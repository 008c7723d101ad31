// Starts the daemon: directories, tree, servers; and ends it in order when it is told to.
import { mkdirSync, writeFileSync } from 'node:fs';
import { fail, messageOf } from '../api/model/errors.ts';
import type { Log } from '../api/model/ports/log.ts';
import type { DaemonConfig } from '../io/config/config.ts';
import { createLog, type LogLevel, logLevels } from '../io/log/log.ts';
import { openAllocator } from '../io/sys/allocator.ts';
import { createSys } from '../io/sys/sys.ts';
import { describeExit } from '../supervisor/types.ts';
import { prepareDirectories } from './directories.ts';
import { notifySystemd } from './notify.ts';
import { processThrift, startThrift } from './thrift.ts';
import { startTree } from './tree.ts';
import type { Version } from './version.ts';

/** How long requests in hand may take to finish once the daemon is told to end. */
const drainMs = 5_000;

function levelOf(name: string): LogLevel {
  const level = logLevels.find((candidate) => candidate === name);
  if (level === undefined) {
    throw fail('invalid-argument', `log level "${name}" is none of ${logLevels.join(', ')}`);
  }
  return level;
}

/** Runs until SIGTERM or SIGINT. Containers go on: their shims are no children of the daemon's life. */
export async function runDaemon(config: DaemonConfig, version: Version): Promise<void> {
  const startedMs = performance.now();
  const log = createLog(levelOf(config.logLevel));
  for (const key of config.unknownKeys) log.warn('unknown key in the configuration is ignored', { key });
  if (config.temp !== '') {
    mkdirSync(config.temp, { recursive: true, mode: 0o700 });
    process.env['TMPDIR'] = config.temp;
  }
  const allocator = openAllocator();
  const sys = createSys();
  const directories = prepareDirectories(sys, config.root, config.state);
  setOomScore(config.oomScore, log);
  const tree = await startTree({ config, version, log, sys, directories });
  log.info('troupe is ready', {
    version: version.version,
    address: config.grpc.address,
    root: config.root,
    state: config.state,
    pid: process.pid,
    bootMs: Math.round(performance.now() - startedMs),
  });
  notifySystemd('READY=1');
  startThrift(processThrift(() => allocator.trim()));

  const { promise: asked, resolve: ask } = Promise.withResolvers<string>();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => ask(signal));
  // Writing to a fifo or socket whose reader has left is an error of that write, not of the daemon.
  process.on('SIGPIPE', () => {});
  process.on('unhandledRejection', (error) => log.error('a promise was rejected unhandled', { error }));
  const why = await Promise.race([asked, tree.exited.then((reason) => reason)]);
  notifySystemd('STOPPING=1');
  if (typeof why === 'string') {
    log.info('troupe ends', { signal: why });
    await tree.stop(drainMs);
    directories.lock.release();
    process.exit(0);
  }
  log.error(`the supervisor tree ended: ${describeExit(why)}`, 'error' in why ? { error: why.error } : {});
  process.exit(1);
}

function setOomScore(score: number, log: Log): void {
  if (score === 0) return;
  try {
    writeFileSync('/proc/self/oom_score_adj', String(score));
  } catch (error) {
    log.warn(`oom_score ${score} cannot be set: ${messageOf(error)}`);
  }
}
