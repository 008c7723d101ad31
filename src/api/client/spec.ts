// The OCI runtime spec of a new container: containerd's defaults, then the image's config, then the caller's wishes.
import { fail } from '../model/errors.ts';
import type { ImageConfig } from '../model/oci.ts';
import type { Any } from '../proto/gen/google/protobuf/any.ts';
import type { ImageUser } from './user.ts';

export const specTypeUrl = 'types.containerd.io/opencontainers/runtime-spec/1/Spec';
export const processTypeUrl = 'types.containerd.io/opencontainers/runtime-spec/1/Process';

export interface OciMount {
  destination: string;
  type?: string;
  source?: string;
  options?: string[];
}

/** config.json of the OCI runtime spec; fields that we set are typed, others pass through. */
export interface OciSpec {
  ociVersion: string;
  process: OciProcess;
  root: { path: string; readonly?: boolean };
  hostname?: string;
  mounts: OciMount[];
  annotations?: Record<string, string>;
  linux: {
    cgroupsPath: string;
    namespaces: { type: string; path?: string }[];
    resources: Record<string, unknown>;
    devices?: Record<string, unknown>[];
    maskedPaths?: string[];
    readonlyPaths?: string[];
    [key: string]: unknown;
  };
  [key: string]: unknown;
}

export interface OciProcess {
  terminal?: boolean;
  consoleSize?: { height: number; width: number };
  user: { uid: number; gid: number; additionalGids?: number[] };
  args: string[];
  env: string[];
  cwd: string;
  capabilities?: Record<string, string[]>;
  rlimits?: { type: string; hard: number; soft: number }[];
  noNewPrivileges?: boolean;
  [key: string]: unknown;
}

export interface SpecOptions {
  /** In place of the image's Cmd; with `entrypoint` unset, after the image's Entrypoint. */
  args?: readonly string[];
  entrypoint?: readonly string[];
  /** `KEY=value`, over the image's own. */
  env?: readonly string[];
  cwd?: string;
  terminal?: boolean;
  hostname?: string;
  readOnly?: boolean;
  /** After the default ones. */
  mounts?: readonly OciMount[];
  /** The host's network in place of an empty one. */
  hostNetwork?: boolean;
  /** The last word on the spec. */
  customize?: (spec: OciSpec) => void;
}

export interface SpecInput {
  namespace: string;
  id: string;
  config: ImageConfig | undefined;
  user: ImageUser;
  options: SpecOptions;
}

const pathDefault = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

const capabilities = [
  ...['CHOWN', 'DAC_OVERRIDE', 'FSETID', 'FOWNER', 'MKNOD', 'NET_RAW', 'SETGID', 'SETUID', 'SETFCAP'],
  ...['SETPCAP', 'NET_BIND_SERVICE', 'SYS_CHROOT', 'KILL', 'AUDIT_WRITE'],
].map((name) => `CAP_${name}`);

const hidden = [
  ...['acpi', 'asound', 'kcore', 'keys', 'latency_stats', 'timer_list', 'timer_stats', 'sched_debug'].map(
    (name) => `/proc/${name}`,
  ),
  ...['/sys/firmware', '/sys/devices/virtual/powercap', '/proc/scsi'],
];

function defaultMounts(): OciMount[] {
  const own = ['nosuid', 'noexec', 'nodev'];
  const tmpfs = ['nosuid', 'strictatime', 'mode=755', 'size=65536k'];
  return [
    { destination: '/proc', type: 'proc', source: 'proc', options: [...own] },
    { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: [...tmpfs] },
    {
      destination: '/dev/pts',
      type: 'devpts',
      source: 'devpts',
      options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
    },
    { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: [...own, 'mode=1777', 'size=65536k'] },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: [...own] },
    { destination: '/sys', type: 'sysfs', source: 'sysfs', options: [...own, 'ro'] },
    { destination: '/run', type: 'tmpfs', source: 'tmpfs', options: [...tmpfs] },
  ];
}

/** Throws `invalid-argument` when neither the image nor the caller names a command. */
export function createSpec({ namespace, id, config, user, options }: SpecInput): OciSpec {
  const image = config?.config;
  const entrypoint = options.entrypoint ?? image?.entrypoint ?? [];
  // Docker's rule: a new entrypoint makes the image's command meaningless.
  const command = options.args ?? (options.entrypoint === undefined ? (image?.cmd ?? []) : []);
  const args = [...entrypoint, ...command];
  if (args.length === 0)
    throw fail('invalid-argument', `container ${id}: no command given, and the image has none`);
  const imageEnv = image === undefined || image.env.length === 0 ? [pathDefault] : image.env;
  const terminal = options.terminal ?? false;
  const spec: OciSpec = {
    ociVersion: '1.3.0',
    process: {
      ...(terminal ? { terminal } : {}),
      user: { uid: user.uid, gid: user.gid, additionalGids: [...user.additionalGids] },
      args,
      env: mergeEnv(imageEnv, [...(terminal ? ['TERM=xterm'] : []), ...(options.env ?? [])]),
      cwd: options.cwd ?? (image?.workingDir || '/'),
      capabilities: {
        bounding: [...capabilities],
        effective: [...capabilities],
        permitted: [...capabilities],
      },
      rlimits: [{ type: 'RLIMIT_NOFILE', hard: 1024, soft: 1024 }],
      noNewPrivileges: true,
    },
    root: { path: 'rootfs', ...(options.readOnly ? { readonly: true } : {}) },
    ...(options.hostname === undefined ? {} : { hostname: options.hostname }),
    mounts: [...defaultMounts(), ...(options.mounts ?? [])],
    linux: {
      cgroupsPath: `/${namespace}/${id}`,
      namespaces: ['pid', 'ipc', 'uts', 'mount', 'network'].map((type) => ({ type })),
      resources: { devices: [{ allow: false, access: 'rwm' }] },
      maskedPaths: [...hidden],
      readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
    },
  };
  if (options.hostNetwork) useHostNetwork(spec);
  options.customize?.(spec);
  return spec;
}

function useHostNetwork(spec: OciSpec): void {
  spec.linux.namespaces = spec.linux.namespaces.filter(({ type }) => type !== 'network');
  for (const path of ['/etc/hosts', '/etc/resolv.conf']) {
    spec.mounts.push({ destination: path, type: 'bind', source: path, options: ['rbind', 'ro'] });
  }
}

/** Later values of a variable win and keep the place of the first; `KEY` alone takes it away. */
export function mergeEnv(base: readonly string[], over: readonly string[]): string[] {
  const merged = new Map<string, string>();
  for (const pair of [...base, ...over]) {
    const at = pair.indexOf('=');
    if (at < 0) merged.delete(pair);
    else merged.set(pair.slice(0, at), pair);
  }
  return [...merged.values()];
}

export function encodeSpec(spec: OciSpec): Any {
  return { typeUrl: specTypeUrl, value: Buffer.from(JSON.stringify(spec)) };
}

export function decodeSpec(any: Any | undefined, id: string): OciSpec {
  if (any === undefined || any.value.byteLength === 0)
    throw fail('failed-precondition', `container ${id} has no spec`);
  try {
    return JSON.parse(Buffer.from(any.value).toString()) as OciSpec;
  } catch (error) {
    throw fail('data-loss', `container ${id}: its spec is not JSON`, error);
  }
}
