// The shim runtime of this machine: bundles on disk, shim binaries as child processes.
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fail, messageOf } from '../../api/model/errors.ts';
import type { Spawn } from '../../api/model/ports/process.ts';
import type { Bundle, ShimAddress, ShimKey, ShimRuntime, ShimStart } from '../../api/model/ports/shim.ts';
import {
  deletedFile,
  groupAddress,
  groupingOf,
  groupingVariable,
  groupOf,
  isSandboxBundle,
  sandboxGroup,
  troupeShimBinary,
} from '../../api/model/shim-group.ts';
import { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import { DeleteResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { RuntimeInfo } from '../../api/proto/gen/types/introspection.ts';
import { BinaryResolver } from './binary.ts';
import {
  type BootstrapForm,
  encodeBootstrap,
  formFor,
  isFormComplaint,
  parseBootstrap,
} from './bootstrap.ts';
import * as bundles from './bundle.ts';
import { copyLog, makeLog } from './log.ts';
import { clearCgroups, clearShim, keepSocket, restoreSocket } from './outside.ts';
import { type CommandOutput, runCommand } from './process.ts';

export interface ShimRuntimeConfig {
  readonly root: string;
  readonly state: string;
  /** Where bundles are below both; default: where tasks have theirs. */
  readonly directory?: string;
  /** Path of the daemon's gRPC socket; the ttrpc socket is where shims send their events. */
  readonly grpcAddress: string;
  readonly ttrpcAddress: string;
  /** The daemon's launcher, which shims may run as `publish`. */
  readonly publishBinary: string;
  readonly version: string;
  /** Whether shims shall log at debug level. */
  readonly debug: boolean;
  /** Where shims shall put their sockets; they choose themselves without. */
  readonly socketDir?: string;
  /** Directories to look for shim binaries in, besides the working directory and PATH. */
  readonly binaryDirectories?: readonly string[];
  /** `KEY=value` pairs for `start` only. */
  readonly startEnv?: Readonly<Record<string, string>>;
}

export interface ShimRuntimeDependencies {
  readonly spawn: Spawn;
  /** mkfifo(3) */
  readonly makeFifo: (path: string, mode: number) => void;
  readonly unmountAll: bundles.UnmountAll;
  /** A line that the shim of this bundle logged. */
  readonly onLogLine: (key: ShimKey, line: string) => void;
  /** Told of what a shim's `delete` wrote to stderr after a shim has died. */
  readonly onWarning: (message: string) => void;
  readonly env?: NodeJS.ProcessEnv;
}

const probeTimeoutMs = 10_000;

/** Of an OCI spec; one that does not parse has none. */
function annotationsOf(spec: Uint8Array | undefined): Record<string, string> {
  try {
    const parsed = JSON.parse(Buffer.from(spec ?? []).toString()) as { annotations?: Record<string, string> };
    return parsed?.annotations ?? {};
  } catch {
    return {};
  }
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}

const logOf = (bundle: Bundle) => join(bundle.path, 'log');

export function createShimRuntime(config: ShimRuntimeConfig, deps: ShimRuntimeDependencies): ShimRuntime {
  const baseEnv = deps.env ?? process.env;
  const resolver = new BinaryResolver(baseEnv['PATH'] ?? '', config.binaryDirectories ?? []);
  const forms = new Map<string, BootstrapForm>();
  const grouping = () => groupingOf(config.startEnv?.[groupingVariable] ?? baseEnv[groupingVariable]);

  const envFor = (key: ShimKey): NodeJS.ProcessEnv => ({
    ...baseEnv,
    GOMAXPROCS: '2',
    MAX_SHIM_VERSION: '2',
    TTRPC_ADDRESS: config.ttrpcAddress,
    GRPC_ADDRESS: config.grpcAddress,
    NAMESPACE: key.namespace,
  });

  const argsFor = (bundle: Bundle, action: 'start' | 'delete'): string[] => [
    ...['-namespace', bundle.namespace],
    ...['-address', config.grpcAddress],
    ...['-publish-binary', config.publishBinary],
    ...['-id', bundle.id],
    ...(action === 'delete' ? ['-bundle', bundle.path] : []),
    ...(config.debug ? ['-debug'] : []),
    action,
  ];

  /** Asks a binary once which form it takes; a replaced binary is asked again. */
  async function formOf(binary: string): Promise<BootstrapForm> {
    if (basename(binary) === troupeShimBinary) return 'params';
    const found = await stat(binary).catch(() => undefined);
    const cacheKey = `${binary}\0${found?.mtimeMs}\0${found?.size}`;
    const known = forms.get(cacheKey);
    if (known !== undefined) return known;
    const output = await runCommand(deps.spawn, {
      binary,
      args: ['-v'],
      cwd: '/',
      env: baseEnv,
      stdin: new Uint8Array(0),
      timeoutMs: probeTimeoutMs,
    }).catch(() => undefined);
    const form = formFor(binary, output?.combined.toString('utf8').trimStart() ?? '');
    if (output !== undefined) forms.set(cacheKey, form);
    return form;
  }

  async function runStart(bundle: Bundle, start: ShimStart, form: BootstrapForm): Promise<CommandOutput> {
    return await runCommand(deps.spawn, {
      binary: start.binary,
      args: argsFor(bundle, 'start'),
      cwd: bundle.path,
      env: { ...envFor(bundle), ...config.startEnv },
      stdin: encodeBootstrap(form, {
        id: bundle.id,
        namespace: bundle.namespace,
        debug: config.debug,
        version: config.version,
        ttrpcAddress: config.ttrpcAddress,
        grpcAddress: config.grpcAddress,
        publishBinary: config.publishBinary,
        socketDir: config.socketDir,
        options: start.options,
      }),
      timeoutMs: Number.POSITIVE_INFINITY,
      signal: start.signal,
    });
  }

  return {
    bundleOf: (key) => bundles.bundleOf(config, key),
    resolve: (runtime) => resolver.resolve(runtime),
    async createBundle(key, { spec }) {
      const bundle = bundles.bundleOf(config, key);
      await bundles.createBundle(bundle, spec, deps.unmountAll);
      return bundle;
    },
    removeBundle: (bundle) => bundles.removeBundle(bundle, deps.unmountAll),

    revives: (binary) => basename(binary) === troupeShimBinary,
    async running(bundle, { binary, spec }) {
      if (basename(binary) !== troupeShimBinary) return undefined;
      const address = groupAddress({
        socketDir: config.socketDir,
        grpcAddress: config.grpcAddress,
        namespace: bundle.namespace,
        group: isSandboxBundle(bundle.path)
          ? sandboxGroup(bundle.id)
          : groupOf(grouping(), bundle.id, annotationsOf(spec)),
      });
      const path = address.slice('unix://'.length);
      if (statSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return undefined;
      // Says that it is wanted to a shim that would leave for want of containers.
      writeFileSync(`${path}.used`, '', { mode: 0o600 });
      return { version: 3, protocol: 'ttrpc', address };
    },

    async start(bundle, start): Promise<ShimAddress> {
      const form = await formOf(start.binary);
      let output = await runStart(bundle, start, form);
      if (output.exitCode !== 0 && form === 'params' && isFormComplaint(output.combined.toString('utf8'))) {
        output = await runStart(bundle, start, 'options');
      }
      if (output.exitCode !== 0) {
        const text = output.combined.toString('utf8').trim();
        throw fail('unknown', `${text}: ${output.ending}`);
      }
      return parseBootstrap(output.combined);
    },

    async delete(bundle, { binary, timeoutMs, expected }): Promise<DeleteResponse> {
      // What the command would print of a container that was deleted in good order.
      if (basename(binary) === troupeShimBinary) {
        const left = readIfThere(join(bundle.path, deletedFile));
        if (left !== undefined) return DeleteResponse.decode(left);
      }
      const output = await runCommand(deps.spawn, {
        binary,
        args: argsFor(bundle, 'delete'),
        cwd: bundle.path,
        env: envFor(bundle),
        stdin: new Uint8Array(0),
        timeoutMs,
      });
      const warning = output.stderr.toString('utf8').trim();
      if (output.exitCode !== 0) {
        throw fail(
          'unknown',
          `shim delete of ${bundle.namespace}/${bundle.id}: ${warning}: ${output.ending}`,
        );
      }
      if (warning !== '' && !expected)
        deps.onWarning(`shim delete of ${bundle.namespace}/${bundle.id}: ${warning}`);
      try {
        return DeleteResponse.decode(output.stdout);
      } catch (error) {
        throw fail('unknown', `shim delete of ${bundle.namespace}/${bundle.id}: ${messageOf(error)}`, error);
      }
    },

    async info(binary, options, timeoutMs): Promise<RuntimeInfo> {
      const output = await runCommand(deps.spawn, {
        binary,
        args: ['-info'],
        cwd: '/',
        env: baseEnv,
        stdin: options === undefined ? new Uint8Array(0) : Any.encode(options).finish(),
        timeoutMs,
      });
      if (output.exitCode !== 0) {
        throw fail(
          'unimplemented',
          `${binary} -info: ${output.combined.toString('utf8').trim().split('\n')[0]}`,
        );
      }
      return RuntimeInfo.decode(output.stdout);
    },

    async openLog(bundle) {
      await makeLog(logOf(bundle), deps.makeFifo);
      return await copyLog(logOf(bundle), (line) => deps.onLogLine(bundle, line));
    },
    reopenLog: (bundle) => copyLog(logOf(bundle), (line) => deps.onLogLine(bundle, line)),
    dropLog: (bundle) => rm(logOf(bundle), { force: true }),
    async keepSocket(bundle, address) {
      keepSocket(bundle, address);
    },
    restoreSocket: async (bundle, address) => restoreSocket(bundle, address),
    async clearAway(bundle, dead) {
      if (dead !== undefined) await clearShim(dead, config.grpcAddress);
      for (const path of await clearCgroups(bundle)) deps.onWarning(`cgroup ${path} is not empty and stays`);
    },
    saveAddress: bundles.saveAddress,
    loadAddress: bundles.loadAddress,
    saveSandbox: bundles.saveSandbox,
    loadSandbox: bundles.loadSandbox,
    saveBinary: bundles.saveBinary,
    loadBinary: bundles.loadBinary,
    namespaces: () => bundles.listNamespaces(config),
    bundles: (namespace) => bundles.listBundles(config, namespace, deps.unmountAll),
    sweepWork: (namespace, keep) => bundles.sweepWork(config, namespace, keep, deps.unmountAll),
  };
}
