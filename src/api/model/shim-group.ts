// Which process of Troupe's own shim holds a container, and where it listens: one convention for daemon and shim.
import { createHash } from 'node:crypto';
import { fail } from './errors.ts';

/** Runtime name of Troupe's own shim; its binary is containerd-shim-troupe-v1. */
export const troupeRuntime = 'io.containerd.troupe.v1';
export const troupeShimBinary = 'containerd-shim-troupe-v1';

/** Environment variable of `start` that says how containers are grouped: `groupingOf` reads it. */
export const groupingVariable = 'TROUPE_SHIM_GROUP';

/** Annotations that put a container into a group by name, whatever the grouping; the first one found counts. */
export const groupAnnotations = [
  'io.containerd.troupe.v1.group',
  'io.containerd.runc.v2.group',
  'io.kubernetes.cri.sandbox-id',
] as const;

/** Present in a bundle as long as its container is the shim's to look after. */
export const recordFile = 'troupe-shim.json';
/** Present in the bundle of a sandbox that a shim of ours holds. */
export const sandboxFile = 'troupe-sandbox.json';
/** What the `delete` command has to say of a container that was deleted in good order. */
export const deletedFile = 'troupe-shim.deleted';
/** Beside the bundles of a namespace: pid, address and daemon of the shim that holds the namespace, a line each. */
export const namespaceFile = '.troupe-shim';
/** The name that a running shim process carries (proc_pid_comm(5): 15 bytes). */
export const shimCommand = 'containerd-shim';

/** Where bundles of sandboxes and of tasks are below the daemon's state, each in a directory of its namespace. */
export const sandboxBundles = 'io.containerd.sandbox.controller.v1.shim';
export const taskBundles = 'io.containerd.runtime.v2.task';

export const socketDirDefault = '/run/containerd/s';
const socketPathBytesMax = 106;
const shardsMax = 1024;

export type Grouping =
  | { readonly kind: 'namespace' }
  | { readonly kind: 'container' }
  | { readonly kind: 'annotation'; readonly name: string }
  | { readonly kind: 'shards'; readonly count: number };

/** `namespace` (also empty), `container`, `annotation:<name>` or `shards:<count>`. */
export function groupingOf(text: string | undefined): Grouping {
  if (text === undefined || text === '' || text === 'namespace') return { kind: 'namespace' };
  if (text === 'container') return { kind: 'container' };
  const [kind, value = ''] = [text.slice(0, text.indexOf(':')), text.slice(text.indexOf(':') + 1)];
  if (kind === 'annotation' && value !== '') return { kind: 'annotation', name: value };
  if (kind === 'shards' && /^[1-9]\d{0,3}$/.test(value) && Number(value) <= shardsMax) {
    return { kind: 'shards', count: Number(value) };
  }
  throw fail(
    'invalid-argument',
    `${groupingVariable}=${JSON.stringify(text)}: use namespace, container, annotation:<name> or shards:<1-${shardsMax}>`,
  );
}

/** The group of a container within its namespace; '' is the namespace's own. */
export function groupOf(
  grouping: Grouping,
  id: string,
  annotations: Readonly<Record<string, string>>,
): string {
  for (const name of groupAnnotations) {
    const value = annotations[name];
    if (value !== undefined && value !== '') return `group/${value}`;
  }
  switch (grouping.kind) {
    case 'namespace':
      return '';
    case 'container':
      return `id/${id}`;
    case 'annotation':
      return annotations[grouping.name] === undefined ? '' : `group/${annotations[grouping.name]}`;
    case 'shards':
      return `shard/${createHash('sha256').update(id).digest().readUInt32BE(0) % grouping.count}`;
  }
}

/** Whether a bundle is a sandbox's: every sandbox is a group, and a process, of its own. */
export function isSandboxBundle(bundle: string): boolean {
  return bundle.split('/').at(-3) === sandboxBundles;
}

export function sandboxGroup(id: string): string {
  return `sandbox/${id}`;
}

/**
 * Where the shim of a group listens: task API 2 and 3 over ttrpc. Whoever can connect there need not run the shim's
 * `start`; when nobody answers, `start` brings the shim up at this very address.
 */
export function groupAddress(of: {
  readonly socketDir?: string | undefined;
  readonly grpcAddress: string;
  readonly namespace: string;
  readonly group: string;
}): string {
  const key = [troupeRuntime, of.grpcAddress, of.namespace, of.group].join('\0');
  const path = `${of.socketDir ?? socketDirDefault}/${createHash('sha256').update(key).digest('hex')}`;
  if (!path.startsWith('/') || Buffer.byteLength(path) > socketPathBytesMax) {
    throw fail(
      'invalid-argument',
      `socket path ${path}: must be absolute, at most ${socketPathBytesMax} bytes`,
    );
  }
  return `unix://${path}`;
}
