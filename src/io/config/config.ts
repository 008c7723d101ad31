// config.toml and the flags of the daemon, checked and with defaults filled in.
import { resolve } from 'node:path';
import { fail } from '../../api/model/errors.ts';
import type { StreamProcessor } from '../../api/model/ports/differ.ts';
import { readConfigFiles } from './files.ts';
import { type MetricsConfig, metricsFrom } from './metrics.ts';
import { type ProxyPluginConfig, proxyPluginsFrom } from './proxy-plugins.ts';
import { Section, type Table } from './section.ts';
import { streamProcessorsFrom } from './stream-processors.ts';
import { type Timeouts, timeoutsFrom, timeoutsToToml } from './timeouts.ts';

export interface SocketConfig {
  address: string;
  uid: number;
  gid: number;
  maxRecvMessageBytes: number;
  maxSendMessageBytes: number;
}

export interface DaemonConfig {
  /** Durable data. */
  root: string;
  /** What a reboot may erase. */
  state: string;
  grpc: SocketConfig;
  ttrpc: SocketConfig;
  logLevel: string;
  /** Directory for temporary files; empty: that of the system. */
  temp: string;
  /** Other files of this configuration, as written. */
  imports: readonly string[];
  /** Plugins that are not to be loaded, as `<type>.<id>`. */
  disabledPlugins: readonly string[];
  /** Plugins without which the daemon is not to start. */
  requiredPlugins: readonly string[];
  /** 0 leaves the value as it is. */
  oomScore: number;
  timeouts: Timeouts;
  metrics: MetricsConfig;
  /** Settings of plugins by their id, as written. */
  plugins: ReadonlyMap<string, Readonly<Record<string, unknown>>>;
  /** Programs that turn layers of one media type into another. */
  streamProcessors: readonly StreamProcessor[];
  /** Plugins behind somebody else's socket. */
  proxyPlugins: readonly ProxyPluginConfig[];
  /** Keys that nobody knows, to be warned of. */
  unknownKeys: string[];
}

export interface ConfigFlags {
  config?: string | undefined;
  address?: string | undefined;
  root?: string | undefined;
  state?: string | undefined;
  logLevel?: string | undefined;
}

export const defaultConfigPath = '/etc/troupe/config.toml';
export const defaultRoot = '/var/lib/troupe';
export const defaultState = '/run/troupe';
export const defaultAddress = '/run/troupe/troupe.sock';
export const messageBytesDefault = 16 * 1024 * 1024;
/** Newest layout of config.toml that is understood. */
export const configVersionMax = 4;

/**
 * Reads the file that the flags name, else the default one if it exists, and the files that it imports. Flags beat the file. Throws
 * `not-found` when a named file is missing and `invalid-argument` for anything malformed.
 */
export function loadConfig(flags: ConfigFlags): DaemonConfig {
  return configFrom(readConfigFiles(flags.config ?? defaultConfigPath, flags.config === undefined), flags);
}

const idMax = 2 ** 32 - 2;
const messageBytesMax = 2 ** 31 - 1;

export function configFrom(table: Table, flags: ConfigFlags): DaemonConfig {
  const top = new Section(table, '');
  const version = top.integer('version', 1, 1000) ?? configVersionMax;
  if (version > configVersionMax) {
    throw fail(
      'invalid-argument',
      `config: version ${version} is newer than ${configVersionMax}, the newest known`,
    );
  }
  const root = resolve(flags.root ?? top.string('root') ?? defaultRoot);
  const state = resolve(flags.state ?? top.string('state') ?? defaultState);
  if (root === state)
    throw fail('invalid-argument', `config: root and state are both ${root}: they must differ`);
  const grpcSection = top.section('grpc');
  const grpc = socketFrom(grpcSection);
  grpc.address = resolve(flags.address ?? (grpc.address || defaultAddress));
  const ttrpcSection = top.section('ttrpc');
  const ttrpc = ttrpcSection === undefined ? { ...grpc, address: '' } : socketFrom(ttrpcSection);
  if (ttrpc.address === '') ttrpc.address = `${grpc.address}.ttrpc`;
  const debug = top.section('debug');
  const logLevel = flags.logLevel ?? debug?.string('level') ?? 'info';
  // Troupe has no debug socket, and its log is JSON always: what containerd does with these does not arise.
  for (const key of ['address', 'format']) debug?.string(key);
  for (const key of ['uid', 'gid']) debug?.integer(key, 0, idMax);
  const temp = top.string('temp') ?? '';
  const oomScore = top.integer('oom_score', -1000, 1000) ?? 0;
  const plugins = new Map(
    Object.entries(top.table('plugins') ?? {}).map(([id, value]) => {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) {
        throw fail('invalid-argument', `config: plugins."${id}" must be a table`);
      }
      return [id, value as Table];
    }),
  );
  const timeouts = timeoutsFrom(top.table('timeouts') ?? {});
  const metricsSection = top.section('metrics');
  const metrics = metricsFrom(metricsSection);
  const processors = streamProcessorsFrom(top.section('stream_processors'));
  const sections = [grpcSection, ttrpcSection, debug, metricsSection, top];
  const imports = top.strings('imports') ?? [];
  const disabledPlugins = top.strings('disabled_plugins') ?? [];
  const requiredPlugins = top.strings('required_plugins') ?? [];
  const proxies = proxyPluginsFrom(top.section('proxy_plugins'));
  const unknownKeys = sections
    .flatMap((section) => section?.unknown() ?? [])
    .concat(processors.unknownKeys, proxies.unknownKeys);
  return {
    root,
    state,
    grpc,
    ttrpc,
    logLevel: logLevel || 'info',
    temp: temp === '' ? '' : resolve(temp),
    imports,
    disabledPlugins,
    requiredPlugins,
    oomScore,
    timeouts,
    metrics,
    plugins,
    streamProcessors: processors.list,
    proxyPlugins: proxies.list,
    unknownKeys,
  };
}

function socketFrom(section: Section | undefined): SocketConfig {
  return {
    address: section?.string('address') ?? '',
    uid: section?.integer('uid', 0, idMax) ?? process.geteuid?.() ?? 0,
    gid: section?.integer('gid', 0, idMax) ?? process.getegid?.() ?? 0,
    maxRecvMessageBytes: section?.integer('max_recv_message_size', 0, messageBytesMax) || messageBytesDefault,
    maxSendMessageBytes: section?.integer('max_send_message_size', 0, messageBytesMax) || messageBytesDefault,
  };
}

/** The configuration in the form of config.toml. */
export function toToml(config: DaemonConfig): Record<string, unknown> {
  const socket = (s: SocketConfig) => ({
    address: s.address,
    uid: s.uid,
    gid: s.gid,
    max_recv_message_size: s.maxRecvMessageBytes,
    max_send_message_size: s.maxSendMessageBytes,
  });
  return {
    version: configVersionMax,
    root: config.root,
    state: config.state,
    temp: config.temp,
    imports: [...config.imports],
    disabled_plugins: [...config.disabledPlugins],
    required_plugins: [...config.requiredPlugins],
    oom_score: config.oomScore,
    grpc: socket(config.grpc),
    ttrpc: socket(config.ttrpc),
    debug: { level: config.logLevel },
    metrics: { address: config.metrics.address },
    timeouts: timeoutsToToml(config.timeouts),
    plugins: Object.fromEntries(config.plugins),
    proxy_plugins: Object.fromEntries(
      config.proxyPlugins.map(({ name, capabilities, exports, ...rest }) => [
        name,
        { ...rest, capabilities: [...capabilities], exports: { ...exports } },
      ]),
    ),
    stream_processors: Object.fromEntries(
      config.streamProcessors.map(({ id, accepts, returns, path, args, env }) => [
        id,
        { accepts: [...accepts], returns, path, args: [...args], env: [...env] },
      ]),
    ),
  };
}
