// Bundle directories: made with the modes that shims and containers expect, removed without ever reaching into a mount.
// Small files and single calls are done at once: another thread's help would cost ten times what they take.
import {
  chmodSync,
  chownSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fail, messageOf } from '../../api/model/errors.ts';
import { checkIdentifier } from '../../api/model/ids.ts';
import type { Bundle, ShimAddress, ShimKey } from '../../api/model/ports/shim.ts';
import { taskBundles } from '../../api/model/shim-group.ts';
import { formatBootstrapFile, parseBootstrapFile } from './bootstrap.ts';
import { codeIs, removeDirectory, type UnmountAll } from './removal.ts';

export type { UnmountAll } from './removal.ts';

export interface BundleRoots {
  /** Durable data. */
  readonly root: string;
  /** What a reboot may erase. */
  readonly state: string;
  /** Name of the directory below both; default: that of tasks. */
  readonly directory?: string;
}

function directoryOf({ directory }: BundleRoots): string {
  return directory ?? taskBundles;
}

export function bundleOf(roots: BundleRoots, { namespace, id }: ShimKey): Bundle {
  return {
    namespace,
    id,
    path: join(roots.state, directoryOf(roots), namespace, id),
    workPath: join(roots.root, directoryOf(roots), namespace, id),
  };
}

/** mkdir with this very mode, whatever the umask; makes what is missing above. */
function makeDirectory(path: string, mode: number, mayExist: boolean): void {
  try {
    mkdirSync(path, { mode });
  } catch (error) {
    if (codeIs(error, 'ENOENT')) {
      makeTree(path);
      mkdirSync(path, { mode });
    } else if (mayExist && codeIs(error, 'EEXIST')) return;
    else throw error;
  }
  chmodSync(path, mode);
}

function makeTree(bundlePath: string): void {
  const namespaceDirectory = dirname(bundlePath);
  const runtime = dirname(namespaceDirectory);
  mkdirSync(dirname(runtime), { recursive: true, mode: 0o711 });
  for (const path of [runtime, namespaceDirectory]) {
    try {
      mkdirSync(path, { mode: 0o711 });
      chmodSync(path, 0o711);
    } catch (error) {
      if (!codeIs(error, 'EEXIST')) throw error;
    }
  }
}

/** The host gid that the container's gid 0 maps to, from the OCI spec; 0 without user namespace. */
export function rootGidOf(spec: Uint8Array): number {
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(spec).toString('utf8'));
  } catch (error) {
    throw fail('unknown', `container spec is no JSON: ${messageOf(error)}`, error);
  }
  const mappings = (parsed as { linux?: { gidMappings?: unknown } } | null)?.linux?.gidMappings;
  if (!Array.isArray(mappings)) return 0;
  for (const mapping of mappings as { containerID?: unknown; hostID?: unknown }[]) {
    if ((mapping?.containerID ?? 0) === 0 && Number.isSafeInteger(mapping?.hostID)) {
      return mapping.hostID as number;
    }
  }
  return 0;
}

export async function createBundle(
  bundle: Bundle,
  spec: Uint8Array | undefined,
  unmountAll: UnmountAll,
): Promise<void> {
  const gid = spec === undefined || spec.length === 0 ? 0 : rootGidOf(spec);
  try {
    makeDirectory(bundle.path, 0o700, false);
  } catch (error) {
    throw fail('unknown', `bundle ${bundle.path}: ${messageOf(error)}`, error);
  }
  try {
    if (gid !== 0) {
      chownSync(bundle.path, -1, gid);
      chmodSync(bundle.path, 0o710);
    }
    makeDirectory(join(bundle.path, 'rootfs'), 0o711, false);
    await makeWork(bundle.workPath, unmountAll);
    symlinkSync(bundle.workPath, join(bundle.path, 'work'));
    if (spec !== undefined && spec.length > 0) {
      writeFileSync(join(bundle.path, 'config.json'), spec, { flag: 'wx', mode: 0o666 });
    }
  } catch (error) {
    await rm(bundle.workPath, { recursive: true, force: true });
    await rm(bundle.path, { recursive: true, force: true });
    throw fail('unknown', `bundle ${bundle.path}: ${messageOf(error)}`, error);
  }
}

/** A work directory without a bundle is what an earlier boot has left. */
async function makeWork(path: string, unmountAll: UnmountAll): Promise<void> {
  try {
    makeDirectory(path, 0o711, false);
  } catch (error) {
    if (!codeIs(error, 'EEXIST')) throw error;
    await removeDirectory(path, unmountAll);
    makeDirectory(path, 0o711, false);
  }
}

export async function removeBundle(bundle: Bundle, unmountAll: UnmountAll): Promise<void> {
  const rootfs = join(bundle.path, 'rootfs');
  try {
    removeRootfs(rootfs);
  } catch {
    // Something is mounted on it, most likely.
    await unmountAll(bundle.path);
    try {
      removeRootfs(rootfs);
    } catch (error) {
      throw fail('unknown', `remove rootfs ${rootfs}: ${messageOf(error)}`, error);
    }
  }
  await removeDirectory(bundle.path, unmountAll);
  await removeDirectory(bundle.workPath, unmountAll);
}

/** Never more than an empty directory. */
function removeRootfs(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    if (!codeIs(error, 'ENOENT')) throw error;
  }
}

/** Replaces the work link of a bundle if it leads elsewhere. */
function repairWorkLink(bundle: Bundle): void {
  const link = join(bundle.path, 'work');
  if (targetOf(link) === bundle.workPath) return;
  makeDirectory(bundle.workPath, 0o711, true);
  try {
    unlinkSync(link);
  } catch (error) {
    if (!codeIs(error, 'ENOENT')) throw error;
  }
  symlinkSync(bundle.workPath, link);
}

function targetOf(link: string): string | undefined {
  try {
    return readlinkSync(link);
  } catch {
    return undefined;
  }
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (codeIs(error, 'ENOENT')) return undefined;
    throw error;
  }
}

export async function saveAddress(bundle: Bundle, address: ShimAddress): Promise<void> {
  const temporary = join(bundle.path, '.bootstrap.json');
  writeFileSync(temporary, formatBootstrapFile(address), { mode: 0o644 });
  chmodSync(temporary, 0o644);
  renameSync(temporary, join(bundle.path, 'bootstrap.json'));
}

export async function loadAddress(bundle: Bundle): Promise<ShimAddress | undefined> {
  const text = readText(join(bundle.path, 'bootstrap.json'));
  if (text !== undefined) return parseBootstrapFile(text);
  const legacy = readText(join(bundle.path, 'address'))?.trim();
  return legacy === undefined || legacy === '' ? undefined : parseBootstrapFile(legacy);
}

export async function saveSandbox(bundle: Bundle, sandboxId: string): Promise<void> {
  writeFileSync(join(bundle.path, 'sandbox'), sandboxId, { mode: 0o600 });
}

export async function loadSandbox(bundle: Bundle): Promise<string | undefined> {
  return readText(join(bundle.path, 'sandbox')) || undefined;
}

export async function saveBinary(bundle: Bundle, binary: string): Promise<void> {
  writeFileSync(join(bundle.path, 'shim-binary-path'), binary, { mode: 0o600 });
}

export async function loadBinary(bundle: Bundle): Promise<string | undefined> {
  const path = readText(join(bundle.path, 'shim-binary-path'));
  return path === undefined || path === '' ? undefined : path;
}

function names(directory: string): string[] {
  let found: string[];
  try {
    found = readdirSync(directory);
  } catch (error) {
    if (codeIs(error, 'ENOENT')) return [];
    throw error;
  }
  return found.filter(isIdentifier).sort();
}

/** Deletes what a daemon that was killed had begun to delete. */
async function finishRemovals(directory: string, unmountAll: UnmountAll): Promise<void> {
  for (const name of entriesOf(directory)) {
    if (!name.startsWith('.') || !isIdentifier(name.slice(1))) continue;
    const doomed = join(directory, name);
    await unmountAll(doomed);
    await rm(doomed, { recursive: true, force: true });
  }
}

function entriesOf(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function isIdentifier(name: string): boolean {
  try {
    checkIdentifier(name, 'name');
    return true;
  } catch {
    return false;
  }
}

/** Of bundles and of work directories: a reboot may have erased the former. */
export async function listNamespaces(roots: BundleRoots): Promise<string[]> {
  const found = [roots.state, roots.root].flatMap((dir) => names(join(dir, directoryOf(roots))));
  return [...new Set(found)].sort();
}

export async function listBundles(
  roots: BundleRoots,
  namespace: string,
  unmountAll: UnmountAll,
): Promise<Bundle[]> {
  const bundles: Bundle[] = [];
  const directory = join(roots.state, directoryOf(roots), namespace);
  await finishRemovals(directory, unmountAll);
  for (const id of names(directory)) {
    const bundle = bundleOf(roots, { namespace, id });
    if (entriesOf(bundle.path).length === 0) {
      await rm(bundle.path, { recursive: true, force: true });
      continue;
    }
    repairWorkLink(bundle);
    bundles.push(bundle);
  }
  return bundles;
}

export async function sweepWork(
  roots: BundleRoots,
  namespace: string,
  keep: ReadonlySet<string>,
  unmountAll: UnmountAll,
): Promise<void> {
  const directory = join(roots.root, directoryOf(roots), namespace);
  await finishRemovals(directory, unmountAll);
  for (const id of names(directory)) {
    if (keep.has(id)) continue;
    const { workPath } = bundleOf(roots, { namespace, id });
    await removeDirectory(workPath, unmountAll);
  }
}
