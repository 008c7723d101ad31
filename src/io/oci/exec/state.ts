// What runc and crun have written down of a running container, as far as an exec depends on it. Anything that is set there and
// not known here makes the container one for the runtime alone.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ContainerPlace } from '../../../api/model/ports/container-host.ts';
import { crunCgroups, type RuntimeKind, runcCgroups } from '../quick.ts';

/** A capability set of the spec: names by kind, kinds in lower case. */
export type CapabilityNames = Readonly<Record<string, unknown>>;

export interface StateFacts {
  readonly kind: RuntimeKind;
  readonly pid: number;
  readonly startTicks: string;
  /** Namespaces of its own, by the spec's names. */
  readonly namespaces: readonly string[];
  readonly cgroups: readonly string[];
  /** What an exec gets that brings none. */
  readonly capabilities: CapabilityNames;
  readonly oomScoreAdj: number | undefined;
  readonly keyring: string | undefined;
}

export type Fields = Readonly<Record<string, unknown>>;

/** undefined: the runtime has to do it. */
export function readState(kind: RuntimeKind, place: ContainerPlace): StateFacts | undefined {
  const directory = join(place.settings.root, place.id);
  const read = (name: string): string => readFileSync(join(directory, name), 'utf8');
  if (kind === 'runc') return runcFacts(read('state.json'), place.id);
  if (kind === 'crun') return crunFacts(read('status'), read('config.json'));
  return undefined;
}

export function runcFacts(text: string, id: string): StateFacts | undefined {
  const state = fieldsOf(JSON.parse(text));
  const config = fieldsOf(state['config']);
  const cgroups = runcCgroups(state, id);
  const { init_process_pid: pid, init_process_start: start } = state;
  if (cgroups === undefined || !isCount(pid) || !isCount(start) || !onlyKnown(config, runcKnown))
    return undefined;
  const namespaces = Array.isArray(config['namespaces']) ? config['namespaces'].map(fieldsOf) : [];
  const names = namespaces.map(({ type }) => runcNamespaces[String(type)]);
  if (names.includes(undefined)) return undefined;
  const { oom_score_adj: score } = config;
  if (!(score === undefined || score === null || Number.isInteger(score))) return undefined;
  const capabilities = Object.entries(fieldsOf(config['capabilities']));
  return {
    kind: 'runc',
    pid,
    startTicks: String(start),
    namespaces: names as string[],
    cgroups,
    capabilities: Object.fromEntries(capabilities.map(([set, list]) => [set.toLowerCase(), list])),
    oomScoreAdj: typeof score === 'number' ? score : undefined,
    keyring: config['no_new_keyring'] === true ? undefined : `_ses.${id}`,
  };
}

export function crunFacts(statusText: string, configText: string): StateFacts | undefined {
  const status = fieldsOf(JSON.parse(statusText));
  const config = fieldsOf(JSON.parse(configText));
  const linux = fieldsOf(config['linux']);
  const init = fieldsOf(config['process']);
  const cgroups = crunCgroups(status);
  const { pid, 'process-start-time': start } = status;
  if (cgroups === undefined || !isCount(pid) || !isCount(start)) return undefined;
  if (
    !onlyKnown(config, crunKnown) ||
    !onlyKnown(linux, crunLinuxKnown) ||
    !onlyKnown(init, crunProcessKnown)
  ) {
    return undefined;
  }
  // These change what the runtime does.
  if (
    Object.keys(fieldsOf(config['annotations'])).some((name) => /^(?:run\.oci\.|module\.wasm)/.test(name))
  ) {
    return undefined;
  }
  const namespaces = Array.isArray(linux['namespaces']) ? linux['namespaces'].map(fieldsOf) : [];
  return {
    kind: 'crun',
    pid,
    startTicks: String(start),
    namespaces: namespaces.map(({ type }) => String(type)),
    cgroups,
    capabilities: fieldsOf(init['capabilities']),
    oomScoreAdj: undefined,
    keyring: undefined,
  };
}

const runcNamespaces: Readonly<Record<string, string>> = {
  NEWPID: 'pid',
  NEWIPC: 'ipc',
  NEWUTS: 'uts',
  NEWNS: 'mount',
  NEWNET: 'network',
  NEWCGROUP: 'cgroup',
};

// What may be set in a container's configuration without an exec being any different.
const runcKnown: ReadonlySet<string> = new Set([
  ...['rootfs', 'umask', 'readonlyfs', 'rootPropagation', 'mounts', 'devices', 'hostname', 'domainname'],
  ...['namespaces', 'capabilities', 'networks', 'routes', 'cgroups', 'oom_score_adj', 'mask_paths'],
  ...[
    'readonly_paths',
    'sysctl',
    'no_new_privileges',
    'Hooks',
    'version',
    'labels',
    'no_new_keyring',
    'rlimits',
  ],
]);
const crunKnown: ReadonlySet<string> = new Set([
  ...['ociVersion', 'process', 'root', 'hostname', 'domainname', 'mounts', 'annotations', 'linux'],
]);
const crunLinuxKnown: ReadonlySet<string> = new Set([
  ...[
    'resources',
    'cgroupsPath',
    'namespaces',
    'devices',
    'maskedPaths',
    'readonlyPaths',
    'rootfsPropagation',
  ],
  'sysctl',
]);
const crunProcessKnown: ReadonlySet<string> = new Set([
  ...['terminal', 'consoleSize', 'user', 'args', 'env', 'cwd', 'capabilities', 'rlimits', 'noNewPrivileges'],
  'oomScoreAdj',
]);

export function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

/** Whether every field outside `known` says nothing. */
export function onlyKnown(fields: Fields, known: ReadonlySet<string>): boolean {
  return Object.entries(fields).every(([name, value]) => known.has(name) || saysNothing(value));
}

function saysNothing(value: unknown): boolean {
  if (Array.isArray(value)) return value.length === 0;
  if (typeof value === 'object' && value !== null) return Object.values(value).every(saysNothing);
  return value === undefined || value === null || value === false || value === 0 || value === '';
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}
