// An OCI runtime (runc, crun, or another with their command line) as the shim drives it.
import { readFileSync, rmSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { codeOf, fail, messageOf } from '../../api/model/errors.ts';
import type {
  CommandLimits,
  ContainerPlace,
  OciRuntime,
  Stdio,
} from '../../api/model/ports/container-host.ts';
import { CheckpointOptions } from '../../api/proto/gen/types/runc/options/oci.ts';
import { cgroupsPathOf, removeCgroups } from '../cgroups/remove.ts';
import type { FdWatch } from '../sys/fd-watch.ts';
import type { RuntimeCommands } from './command.ts';
import type { Insiders } from './exec/insiders.ts';
import { giveStreams, planFor } from './exec/ordinary.ts';
import { makersEnd } from './makers.ts';
import { kindOfVersion, quickDelete, quickStart, type RuntimeKind } from './quick.ts';

/** What is left of the time when something has to be undone. */
const undoDeadlineMs = 10_000;
const versionDeadlineMs = 10_000;
/**
 * For how long a runtime goes on making a container for a caller who has given up, and one whose shim has died: killed
 * halfway, it leaves behind what nobody knows of.
 */
const makingGraceMs = 3_000;
const cgroupsTimeoutMs = 2_000;
const fullCheckpoint = 'containerd.runc.v1.CheckpointOptions';

const ownerOf = ({ id, settings }: ContainerPlace): string => join(settings.root, id);

export function createRuntime(commands: RuntimeCommands, watch: FdWatch, insiders?: Insiders): OciRuntime {
  const kinds = new Map<string, Promise<RuntimeKind>>();

  /** Asked once of each binary; a replaced one is asked again. */
  function kindOf({ settings }: ContainerPlace): Promise<RuntimeKind> {
    const file = commands.find(settings.binary);
    const { mtimeMs, size } = statSync(file);
    const key = `${file}\0${mtimeMs}\0${size}`;
    let kind = kinds.get(key);
    if (kind === undefined) {
      kind = commands.ask(file, ['--version'], versionDeadlineMs).then(kindOfVersion, () => 'other' as const);
      kinds.set(key, kind);
    }
    return kind;
  }

  /** Starts an exec without the runtime where that is as good; undefined when nothing was started. */
  async function execInside(
    place: ContainerPlace,
    process: Uint8Array,
    io: Stdio,
    limits: CommandLimits,
  ): Promise<number | undefined> {
    if (insiders === undefined || io.consoleSocket !== undefined || place.settings.noPivotRoot)
      return undefined;
    const plan = planFor(await kindOf(place), place, process);
    if (plan === undefined) return undefined;
    giveStreams(io.fds, plan.identity.uid);
    const pid = await insiders.start(plan, ownerOf(place), io.fds, limits);
    if (pid !== undefined) io.handedOver();
    return pid;
  }

  const plain = async (
    place: ContainerPlace,
    operation: string,
    limits: CommandLimits,
    rest: string[] = [],
  ) =>
    await commands.run({
      place,
      args: [operation, ...rest, place.id],
      failure: `OCI runtime ${operation} failed`,
      limits,
    });

  const readPid = (path: string): number => {
    const pid = Number(readFileSync(path, 'utf8').trim());
    if (!Number.isSafeInteger(pid) || pid <= 0) throw fail('unknown', `${path} holds no process id`);
    return pid;
  };

  async function undo(place: ContainerPlace, error: unknown): Promise<never> {
    try {
      if (statSync(join(place.settings.root, place.id), { throwIfNoEntry: false }) !== undefined) {
        await plain(place, 'delete', { deadlineMs: undoDeadlineMs }, ['--force']);
      }
      await removeLeftCgroups(place);
    } catch (undoError) {
      throw fail(codeOf(error), `${messageOf(error)}; undoing failed: ${messageOf(undoError)}`, error);
    }
    throw error;
  }

  /** A runtime that was killed may have made them without having written down where. */
  async function removeLeftCgroups({ bundle, settings }: ContainerPlace): Promise<void> {
    const path = settings.systemdCgroup ? undefined : cgroupsPathOf(bundle);
    const left = path === undefined ? [] : await removeCgroups(path, cgroupsTimeoutMs);
    if (left.length > 0) throw fail('unknown', `cgroup ${left[0]} cannot be removed: processes are in it`);
  }

  /** Runs what makes the init process: its pid comes in a file, its terminal over the console socket. */
  async function begin(
    place: ContainerPlace,
    io: Stdio,
    args: readonly string[],
    failure: string,
    limits: CommandLimits,
  ): Promise<number> {
    const pidFile = join(place.bundle, 'init.pid');
    const stop = new AbortController();
    const attached = io.attached(stop.signal);
    // Looked at below; a runtime that fails first must not leave a rejection behind.
    attached.catch(() => {});
    using patient = patientLimits(limits);
    try {
      await commands.run({
        place,
        args: [
          args[0] as string,
          '--bundle',
          place.bundle,
          '--pid-file',
          pidFile,
          ...args.slice(1),
          place.id,
        ],
        fds: io.fds,
        failure,
        limits: patient,
        onStarted: () => io.handedOver(),
      });
      await attached;
      return readPid(pidFile);
    } catch (error) {
      stop.abort();
      return await undo(place, error);
    }
  }

  const creation = ({ settings }: ContainerPlace, io: Stdio): string[] => [
    ...(io.consoleSocket === undefined ? [] : ['--console-socket', io.consoleSocket]),
    ...(settings.noPivotRoot ? ['--no-pivot'] : []),
  ];

  return {
    async create(place, io, limits) {
      const keyring = place.settings.noNewKeyring ? ['--no-new-keyring'] : [];
      return await begin(
        place,
        io,
        ['create', ...creation(place, io), ...keyring],
        'OCI runtime create failed',
        limits,
      );
    },

    async restore(place, io, { image, parent }, limits) {
      const work = place.settings.criuWorkPath || join(place.bundle, 'work');
      const from = ['--image-path', image, '--work-path', work];
      const parents = parent === '' ? [] : ['--parent-path', parent];
      const args = ['restore', ...from, ...parents, '--detach', ...creation(place, io), '-no-subreaper'];
      return await begin(place, io, args, 'OCI runtime restore failed', limits);
    },

    async start(place, spec, limits) {
      const kind = spec.hasHooks ? 'other' : await kindOf(place);
      if (await quickStart(kind, place, watch, limits.deadlineMs)) return;
      await plain(place, 'start', limits);
    },

    async exec(place, { id, process }, io, limits) {
      const started = await execInside(place, process, io, limits);
      if (started !== undefined) return started;
      // In the bundle, which only root can read: one file made and one removed.
      const processPath = join(place.bundle, `${id}.process.json`);
      const pidFile = join(place.bundle, `${id}.pid`);
      const stop = new AbortController();
      const attached = io.attached(stop.signal);
      attached.catch(() => {});
      try {
        writeFileSync(processPath, process, { mode: 0o600 });
        const socket = io.consoleSocket === undefined ? [] : ['--console-socket', io.consoleSocket];
        await commands.run({
          place,
          args: ['exec', '--process', processPath, ...socket, '--detach', '--pid-file', pidFile, place.id],
          fds: io.fds,
          failure: 'OCI runtime exec failed',
          limits,
          onStarted: () => io.handedOver(),
        });
        await attached;
        const pid = readPid(pidFile);
        unlinkSync(pidFile);
        return pid;
      } catch (error) {
        stop.abort();
        rmSync(pidFile, { force: true });
        throw error;
      } finally {
        rmSync(processPath, { force: true });
      }
    },

    async kill(place, signal, all, limits) {
      try {
        await commands.run({
          place,
          args: ['kill', ...(all ? ['--all'] : []), place.id, String(signal)],
          failure: 'OCI runtime kill failed',
          limits,
        });
      } catch (error) {
        const gone = /container not running|no such process|process already finished|does not exist/i;
        if (gone.test(messageOf(error))) throw fail('not-found', 'process already finished', error);
        throw error;
      }
    },

    async delete(place, spec, force, limits) {
      await insiders?.leave(ownerOf(place));
      if (!force && spec?.hasHooks === false && quickDelete(await kindOf(place), place)) return;
      if (force) await makersEnd(place.bundle, Math.min(makingGraceMs, limits.deadlineMs));
      try {
        await plain(place, 'delete', limits, force ? ['--force'] : []);
      } catch (error) {
        if (!/does not exist/.test(messageOf(error))) throw error;
      }
      if (force) await removeLeftCgroups(place);
    },

    pause: async (place, limits) => void (await plain(place, 'pause', limits)),
    resume: async (place, limits) => void (await plain(place, 'resume', limits)),

    async update(place, resources, limits) {
      await commands.run({
        place,
        args: ['update', '--resources=-', place.id],
        stdin: resources,
        failure: 'OCI runtime update failed',
        limits,
      });
    },

    async processes(place, limits) {
      const text = await plain(place, 'ps', limits, ['--format', 'json']);
      const pids: unknown = JSON.parse(text);
      if (!Array.isArray(pids)) throw fail('unknown', `OCI runtime ps printed ${text.slice(0, 80)}`);
      return pids.map(Number);
    },

    async checkpoint(place, { image, work, options }, limits) {
      if (options !== undefined && options.typeUrl !== '' && !options.typeUrl.endsWith(fullCheckpoint)) {
        throw fail(
          'unknown',
          `checkpoint options of type "${options.typeUrl}": this runtime takes ${fullCheckpoint}`,
        );
      }
      const chosen = CheckpointOptions.decode(options?.value ?? new Uint8Array(0));
      const flags = [
        ...(chosen.openTcp ? ['--tcp-established'] : []),
        ...(chosen.externalUnixSockets ? ['--ext-unix-sk'] : []),
        ...(chosen.terminal ? ['--shell-job'] : []),
        ...(chosen.fileLocks ? ['--file-locks'] : []),
        ...chosen.emptyNamespaces.flatMap((name) => ['--empty-ns', name]),
        ...(chosen.exit ? [] : ['--leave-running']),
      ];
      const workPath = chosen.workPath === '' ? work : chosen.workPath;
      await plain(place, 'checkpoint', limits, ['--image-path', image, '--work-path', workPath, ...flags]);
    },

    sharesKernel: async (place) => (await kindOf(place)) !== 'other',
  };
}

/** The same limits, where a caller who gives up ends the work only some time later. */
function patientLimits({ deadlineMs, signal }: CommandLimits): CommandLimits & Disposable {
  const late = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const onAbort = () => {
    timer = setTimeout(() => late.abort(signal?.reason), makingGraceMs);
  };
  signal?.addEventListener('abort', onAbort, { once: true });
  if (signal?.aborted) onAbort();
  return {
    deadlineMs,
    signal: late.signal,
    [Symbol.dispose]() {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    },
  };
}
