// Decides which execs an insider can start, and with what identity: those of which every word is understood here.

import type { Capabilities, CapabilitySet, Identity, Program } from './orders.ts';
import type { StateFacts } from './state.ts';
import { type Fields, fieldsOf, onlyKnown } from './state.ts';

export interface Plan {
  readonly identity: Identity;
  readonly program: Program;
}

/** undefined: the runtime has to do it, or to say what is wrong with it. `process` is the spec's, as JSON. */
export function planExec(state: StateFacts, process: Uint8Array): Plan | undefined {
  const fields = fieldsOf(JSON.parse(Buffer.from(process).toString('utf8')));
  if (!onlyKnown(fields, processKnown)) return undefined;
  const { pid, startTicks, cgroups, oomScoreAdj, keyring } = state;
  const namespaces = namespaceFlags(state.namespaces);
  const user = userOf(fields['user']);
  const given = fields['capabilities'];
  const capabilities = capabilitySets(fieldsOf(given ?? state.capabilities));
  const rlimits = limitsOf(fields['rlimits']);
  const program = programOf(fields);
  if (namespaces === undefined || user === undefined || capabilities === undefined) return undefined;
  if (rlimits === undefined || program === undefined) return undefined;
  const noNewPrivileges = fields['noNewPrivileges'] === true;
  const identity = {
    ...{ pid, startTicks, namespaces, cgroups, oomScoreAdj, rlimits },
    ...{ ...user, capabilities, noNewPrivileges, keyring },
  };
  return { identity, program };
}

const processKnown: ReadonlySet<string> = new Set([
  ...['consoleSize', 'user', 'args', 'env', 'cwd', 'capabilities', 'rlimits', 'noNewPrivileges'],
  // Both runtimes give an exec what the container has, whatever its own says.
  'oomScoreAdj',
]);

/** CLONE_NEW* of clone(2). */
const namespaceBits: Readonly<Record<string, number>> = {
  mount: 0x0002_0000,
  cgroup: 0x0200_0000,
  uts: 0x0400_0000,
  ipc: 0x0800_0000,
  pid: 0x2000_0000,
  network: 0x4000_0000,
};

/** Without a pid namespace the container's processes could see the insider, without a mount namespace it has no root. */
function namespaceFlags(names: readonly string[]): number | undefined {
  if (!names.includes('pid') || !names.includes('mount')) return undefined;
  let flags = 0;
  for (const name of names) {
    const bit = namespaceBits[name];
    if (bit === undefined) return undefined;
    flags |= bit;
  }
  return flags;
}

const idMax = 0xffff_fffe;
const groupsMax = 1024;
const isId = (value: unknown): value is number =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) <= idMax;

function userOf(value: unknown): Pick<Identity, 'uid' | 'gid' | 'groups'> | undefined {
  const user = fieldsOf(value);
  if (!onlyKnown(user, new Set(['uid', 'gid', 'additionalGids']))) return undefined;
  const { uid = 0, gid = 0, additionalGids } = user;
  const groups = additionalGids ?? [];
  if (!isId(uid) || !isId(gid) || !Array.isArray(groups)) return undefined;
  if (groups.length > groupsMax || !groups.every(isId)) return undefined;
  return { uid, gid, groups };
}

/** By number (capabilities(7)). */
const capabilityNames: readonly string[] = [
  ...['CHOWN', 'DAC_OVERRIDE', 'DAC_READ_SEARCH', 'FOWNER', 'FSETID', 'KILL', 'SETGID', 'SETUID', 'SETPCAP'],
  ...[
    'LINUX_IMMUTABLE',
    'NET_BIND_SERVICE',
    'NET_BROADCAST',
    'NET_ADMIN',
    'NET_RAW',
    'IPC_LOCK',
    'IPC_OWNER',
  ],
  ...[
    'SYS_MODULE',
    'SYS_RAWIO',
    'SYS_CHROOT',
    'SYS_PTRACE',
    'SYS_PACCT',
    'SYS_ADMIN',
    'SYS_BOOT',
    'SYS_NICE',
  ],
  ...[
    'SYS_RESOURCE',
    'SYS_TIME',
    'SYS_TTY_CONFIG',
    'MKNOD',
    'LEASE',
    'AUDIT_WRITE',
    'AUDIT_CONTROL',
    'SETFCAP',
  ],
  ...['MAC_OVERRIDE', 'MAC_ADMIN', 'SYSLOG', 'WAKE_ALARM', 'BLOCK_SUSPEND', 'AUDIT_READ', 'PERFMON', 'BPF'],
  'CHECKPOINT_RESTORE',
];
const numbers: ReadonlyMap<string, number> = new Map(
  capabilityNames.map((name, number) => [`CAP_${name}`, number]),
);
const setNames = ['bounding', 'effective', 'permitted', 'inheritable', 'ambient'] as const;

function capabilitySets(fields: Fields): Capabilities | undefined {
  if (!onlyKnown(fields, new Set(setNames))) return undefined;
  const sets: Partial<Record<(typeof setNames)[number], CapabilitySet>> = {};
  for (const name of setNames) {
    const list = fields[name] ?? [];
    if (!Array.isArray(list)) return undefined;
    let [low, high] = [0, 0];
    for (const entry of list) {
      const number = numbers.get(String(entry));
      if (number === undefined) return undefined;
      if (number < 32) low = (low | (1 << number)) >>> 0;
      else high = (high | (1 << (number - 32))) >>> 0;
    }
    sets[name] = [low, high];
  }
  const { effective, permitted, inheritable, ambient } = sets as Capabilities;
  // What the kernel refuses or a runtime mends in its own way.
  if (!within(effective, permitted) || !within(ambient, permitted) || !within(ambient, inheritable))
    return undefined;
  return sets as Capabilities;
}

const within = (inner: CapabilitySet, outer: CapabilitySet): boolean =>
  (inner[0] & ~outer[0]) === 0 && (inner[1] & ~outer[1]) === 0;

/**
 * Limits that the insider itself can live under (getrlimit(2)). The others, of address space, data, stack, CPU time and
 * the number of processes, would also bind or count the insider.
 */
const limitNumbers: Readonly<Record<string, number>> = {
  ...{ RLIMIT_FSIZE: 1, RLIMIT_CORE: 4, RLIMIT_NOFILE: 7, RLIMIT_MEMLOCK: 8, RLIMIT_LOCKS: 10 },
  ...{ RLIMIT_SIGPENDING: 11, RLIMIT_MSGQUEUE: 12, RLIMIT_NICE: 13, RLIMIT_RTPRIO: 14 },
};
const descriptorsMin = 256;

function limitsOf(value: unknown): Identity['rlimits'] | undefined {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) return undefined;
  const limits: [number, string, string][] = [];
  for (const { type, soft, hard } of value.map(fieldsOf)) {
    const resource = limitNumbers[String(type)];
    // Beyond what JSON numbers hold exactly, RLIM_INFINITY included.
    const exact = Number.isSafeInteger(soft) && Number.isSafeInteger(hard) && Number(soft) >= 0;
    if (resource === undefined || !exact || Number(soft) > Number(hard)) return undefined;
    if (type === 'RLIMIT_NOFILE' && Number(soft) < descriptorsMin) return undefined;
    if (limits.some(([other]) => other === resource)) return undefined;
    limits.push([resource, String(soft), String(hard)]);
  }
  return limits;
}

function programOf({ args, env, cwd }: Fields): Program | undefined {
  const list = env ?? [];
  if (!isTexts(args) || args.length === 0 || args[0] === '' || !isTexts(list)) return undefined;
  if (typeof cwd !== 'string' || !cwd.startsWith('/') || cwd.includes('\0')) return undefined;
  const names = list.map((entry) => entry.slice(0, entry.indexOf('=')));
  // Runtimes differ about variables without a name or a value, and about those that come twice.
  if (list.some((entry) => entry.indexOf('=') <= 0) || new Set(names).size !== names.length) return undefined;
  // Go strips what would be an empty home; crun keeps it.
  if (list.includes('HOME=')) return undefined;
  return { args, env: list, cwd };
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((entry) => typeof entry === 'string' && !entry.includes('\0'));
}
