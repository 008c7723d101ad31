// `start`: finds the process that looks after the container's group, or becomes it.
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ContainerDirectory } from '../../actors/container/directory.ts';
import { eventSender } from '../../actors/container/events.ts';
import { type ContainerProtocol, containerPath } from '../../actors/container/protocol.ts';
import { containerLimitsDefault } from '../../actors/container/state.ts';
import { publisherActor } from '../../actors/publisher/actor.ts';
import { type PublisherProtocol, publisherPath } from '../../actors/publisher/protocol.ts';
import { fail, messageOf } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import {
  groupAddress,
  groupingOf,
  groupingVariable,
  groupOf,
  isSandboxBundle,
  namespaceFile,
  sandboxGroup,
} from '../../api/model/shim-group.ts';
import { systemClock } from '../../api/model/time.ts';
import { TtrpcServer } from '../../api/ttrpc/server.ts';
import { taskServices } from '../../api/ttrpc/task-service.ts';
import { cgroupHierarchies } from '../../io/cgroups/remove.ts';
import { createLineLog } from '../../io/log/lines.ts';
import { createHost, type Host } from '../../io/oci/host.ts';
import { loadRecord } from '../../io/oci/records.ts';
import { decodeOptions } from '../../io/oci/settings.ts';
import { readSpec } from '../../io/oci/spec.ts';
import { openFdWatch } from '../../io/sys/fd-watch.ts';
import { openPeerCredentials } from '../../io/sys/peer.ts';
import { joinCgroup, leaveSession, raiseOomScore, replaceStreams } from '../../io/sys/session.ts';
import { createSys } from '../../io/sys/sys.ts';
import {
  actorChild,
  Supervisor,
  type SupervisorEvent,
  supervisorChild,
} from '../../supervisor/supervisor.ts';
import { ActorSystem } from '../../supervisor/system.ts';
import { moduleUrl } from '../../supervisor/thread.ts';
import type { ShimArguments } from './arguments.ts';
import { formatAnswer, parseBootstrapInput } from './bootstrap.ts';
import { bundlesOfContainers } from './bundles.ts';
import { eventForwarder } from './forward.ts';
import { lingerer } from './linger.ts';
import { answers, lockGroup, type SocketKeeper, socketKeeper } from './listening.ts';

const inputBytesMax = 10 * 1024 * 1024;
const intensity = { restartsMax: 20, withinMs: 60_000 };
const sweepDelayMs = 100;

export async function start(args: ShimArguments, env: NodeJS.ProcessEnv): Promise<void> {
  const bundle = process.cwd();
  const boot = parseBootstrapInput(readInput(), args, env);
  const isSandbox = isSandboxBundle(bundle);
  const group = isSandbox
    ? sandboxGroup(args.id)
    : groupOf(groupingOf(env[groupingVariable]), args.id, readSpec(bundle).annotations);
  const { namespace } = args;
  const address = groupAddress({ socketDir: boot.socketDir, grpcAddress: args.address, namespace, group });
  const socketPath = address.slice('unix://'.length);
  const answer = () => {
    // Daemons before 2.3 leave it to the shim to write down where it is found again.
    if (!boot.modern) writeFileSync(join(bundle, 'address'), address, { mode: 0o600 });
    writeSync(1, formatAnswer(address, boot.modern));
  };
  if (await answers(socketPath)) {
    answer();
    return;
  }
  const sys = createSys();
  const lock = await lockGroup(sys, socketPath);
  if (lock === undefined) {
    answer();
    return;
  }
  leaveSession();
  raiseOomScore();
  sys.setChildSubreaper(true);
  const { shimCgroup } = decodeOptions(boot.options);
  if (shimCgroup !== '') joinCgroup(shimCgroup, cgroupHierarchies());
  process.title = `containerd-shim-troupe-v1 -namespace ${namespace} -id ${args.id} -address ${args.address}`;
  process.chdir('/');

  let logFd = openLog(bundle);
  const log = createLineLog({
    debug: boot.debug,
    target: () => logFd,
    onLost() {
      if (logFd !== undefined) closeSync(logFd);
      logFd = undefined;
    },
  });
  const watch = openFdWatch();
  const clock = systemClock();
  const host = createHost({
    ...{ watch, env, clock },
    insiders: {
      entry: fileURLToPath(moduleUrl(import.meta.url, '../../threads/insider')),
      countMax: insidersOf(env),
      log,
    },
  });
  const system = new ActorSystem({
    name: 'shim',
    onCrash: (path, error) => log.error(`actor ${path} crashed`, { error }),
  });
  const forward = eventForwarder(boot.ttrpcAddress, namespace);
  const container = (id: string) => system.ref<ContainerProtocol>(containerPath(id));
  let containers: Supervisor | undefined;
  // Assigned below: until then there is nothing that could fail too often.
  let onGaveUp = () => {};
  const onEvent = (event: SupervisorEvent) => {
    // That a container was deleted is no news.
    if (event.kind !== 'ended') log.warn(`supervisor: ${event.kind}`, { ...event });
    // The containers live on, and the next start takes them over with a fresh mind.
    if (event.kind === 'gave-up') onGaveUp();
  };
  await Supervisor.start(system, {
    path: 'shim',
    strategy: 'one_for_one',
    intensity,
    onEvent,
    children: [
      actorChild(
        system,
        'publisher',
        publisherActor,
        { forward, onExitTold: (id, execId) => container(id).cast('told', { execId }), log },
        { restart: 'permanent', path: publisherPath },
      ),
      supervisorChild(
        system,
        'containers',
        { strategy: 'one_for_one', intensity, onEvent },
        10_000,
        (supervisor) => {
          containers = supervisor;
        },
      ),
    ],
  });
  if (containers === undefined) throw fail('internal', 'the containers have no supervisor');
  const publisher = system.ref<PublisherProtocol>(publisherPath);
  const directory = new ContainerDirectory(system, containers, {
    namespace,
    address,
    host,
    events: eventSender(
      namespace,
      () => clock.nowNs(),
      (request) => publisher.cast('publish', request),
    ),
    log,
    limits: { ...containerLimitsDefault, ...deadlineOf(env) },
  });
  const near = isSandbox ? bundlesOfContainers(bundle) : dirname(bundle);
  await takeOverAll(directory, near, bundle, group, address, log);
  // Most shims are none: they need not load it.
  const sandbox = isSandbox
    ? await (await import('./sandbox.ts')).holdSandbox({
        ...{ id: args.id, bundle, system, host, directory, log, intensity, onEvent },
      })
    : undefined;

  let keeper: SocketKeeper | undefined;
  const linger = lingerer({
    busy: () => directory.size > 0 || sandbox?.held() === true,
    socketPath,
    lingerMs: lingerOf(env),
    keeper: () => keeper,
    onEnd: () => void end('nothing is left to look after'),
  });
  const server = new TtrpcServer({
    services: [
      ...(sandbox === undefined ? [] : [sandbox.service]),
      ...taskServices({
        find: (id) => directory.find(id),
        has: (id) => directory.has(id),
        create: (request, options) => {
          logFd ??= openLog(request.bundle);
          return directory.create(request, options);
        },
        onShutdown() {
          linger.touch();
          // Of a sandbox that was shut down nobody has any more use.
          if (sandbox?.held() === false && directory.size === 0)
            setImmediate(() => void end('its sandbox is gone'));
        },
      }),
    ],
    peerCredentials: openPeerCredentials(),
    onError: (error) => log.warn('ttrpc connection', { error }),
    onConnection: () => linger.touch(),
  });
  const listen = () => server.listen({ path: socketPath, mode: 0o600 });
  await listen();
  const namespacePath = join(dirname(bundle), namespaceFile);
  const announced = group === '' && `${process.pid}\n${address}\n${args.address}\n`;
  if (announced !== false) writeFileSync(namespacePath, announced, { mode: 0o600 });

  let ending = false;
  const end = async (why: string, code = 0) => {
    if (ending) return;
    ending = true;
    keeper?.pause();
    log.info(`shim ends: ${why}`);
    if (announced !== false) rmSync(namespacePath, { force: true });
    await server.close();
    linger.removeSocket();
    lock.release();
    // Its thread would keep the process.
    await watch.stop();
    process.exit(code);
  };
  keeper = socketKeeper({
    ...{ socketPath, lock, listen, log },
    onLost: () => void end('another shim has taken its address', 1),
  });
  onGaveUp = () => void end('its actors fail too often', 1);
  process.on('SIGTERM', () => void end('SIGTERM'));
  process.on('SIGINT', () => void end('SIGINT'));
  process.on('SIGUSR1', () =>
    log.info('state', { actors: system.counters(), memory: process.memoryUsage() }),
  );
  process.on('uncaughtException', (error) => {
    log.error('uncaught error', { error });
    void end('an error that nobody caught', 1);
  });
  reapOrphans(host);
  answer();
  const none = openSync('/dev/null', 'r+');
  replaceStreams(none, [0, 1]);
  replaceStreams(logFd ?? none, [2]);
  closeSync(none);
}

function readInput(): Uint8Array {
  const parts: Buffer[] = [];
  for (let total = 0; ; ) {
    const part = Buffer.allocUnsafe(65_536);
    let length: number;
    try {
      length = readSync(0, part, 0, part.length, null);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EOF') break;
      throw error;
    }
    if (length === 0) break;
    total += length;
    if (total > inputBytesMax)
      throw fail('resource-exhausted', `standard input is longer than ${inputBytesMax} bytes`);
    parts.push(part.subarray(0, length));
  }
  return Buffer.concat(parts);
}

/** The fifo on which the daemon listens; there is none when it was started by hand. */
function openLog(bundle: string): number | undefined {
  try {
    return openSync(join(bundle, 'log'), constants.O_WRONLY | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
}

/** Containers of the group whose shim has died: their bundles lie beside this one. */
async function takeOverAll(
  directory: ContainerDirectory,
  namespaceDirectory: string,
  bundle: string,
  group: string,
  address: string,
  log: Log,
): Promise<void> {
  const alone = group.startsWith('id/');
  const names = alone ? [basename(bundle)] : list(namespaceDirectory).filter((name) => !name.startsWith('.'));
  await Promise.all(
    names.map(async (name) => {
      try {
        const record = loadRecord(join(namespaceDirectory, name));
        if (record?.address === address) await directory.takeOver(record);
      } catch (error) {
        log.error(`bundle ${name} cannot be read`, { error: messageOf(error) });
      }
    }),
  );
}

/** Beside a sandbox there may never have been a task. */
function list(directory: string): string[] {
  return existsSync(directory) ? readdirSync(directory) : [];
}

/** Children that nobody watches: what a container left behind, given to this process as its sub-reaper. */
function reapOrphans(host: Host): void {
  let waiting = false;
  process.on('SIGCHLD', () => {
    if (waiting) return;
    waiting = true;
    void sleep(sweepDelayMs, undefined, { ref: false }).then(() => {
      waiting = false;
      host.sweep();
    });
  });
}

const lingerMsDefault = 30_000;

/** How long a shim without containers stays for the next one. */
function lingerOf(env: NodeJS.ProcessEnv): number {
  return numberOf(env['TROUPE_SHIM_LINGER_MS']) ?? lingerMsDefault;
}

const insidersMaxDefault = 4;

/** How many processes may stand by for execs, so that these need not go through the runtime; 0 for none. */
function insidersOf(env: NodeJS.ProcessEnv): number {
  return numberOf(env['TROUPE_SHIM_INSIDERS']) ?? insidersMaxDefault;
}

function deadlineOf(env: NodeJS.ProcessEnv): { runtimeDeadlineMs?: number } {
  const runtimeDeadlineMs = numberOf(env['TROUPE_SHIM_RUNTIME_DEADLINE_MS']);
  return runtimeDeadlineMs === undefined ? {} : { runtimeDeadlineMs };
}

function numberOf(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : undefined;
}
