// Bundle directories: made with the modes that shims and containers expect, removed without ever reaching into a mount.
import {
  chmod,
  chown,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  rmdir,
  symlink,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fail, messageOf } from '../../api/model/errors.ts';
import { checkIdentifier } from '../../api/model/ids.ts';
import type { Bundle, ShimAddress, ShimKey } from '../../api/model/ports/shim.ts';
import { formatBootstrapFile, parseBootstrapFile } from './bootstrap.ts';

export const runtimeDirectory = 'io.containerd.runtime.v2.task';

export interface BundleRoots {
  /** Durable data. */
  readonly root: string;
  /** What a reboot may erase. */
  readonly state: string;
  /** Name of the directory below both; default: that of tasks. */
  readonly directory?: string;
}

function directoryOf({ directory }: BundleRoots): string {
  return directory ?? runtimeDirectory;
}

/** Unmounts everything on and below a path, deepest first. */
export type UnmountAll = (path: string) => Promise<void>;

export function bundleOf(roots: BundleRoots, { namespace, id }: ShimKey): Bundle {
  return {
    namespace,
    id,
    path: join(roots.state, directoryOf(roots), namespace, id),
    workPath: join(roots.root, directoryOf(roots), namespace, id),
  };
}

function codeIs(error: unknown, ...codes: string[]): boolean {
  return codes.includes(String((error as NodeJS.ErrnoException | null)?.code));
}

/** mkdir with this very mode, whatever the umask. */
async function makeDirectory(path: string, mode: number, mayExist: boolean): Promise<void> {
  try {
    await mkdir(path, { mode });
  } catch (error) {
    if (!mayExist || !codeIs(error, 'EEXIST')) throw error;
    return;
  }
  await chmod(path, mode);
}

async function makeTree(bundlePath: string): Promise<void> {
  const namespaceDirectory = dirname(bundlePath);
  const runtime = dirname(namespaceDirectory);
  await mkdir(dirname(runtime), { recursive: true, mode: 0o711 });
  await makeDirectory(runtime, 0o711, true);
  await makeDirectory(namespaceDirectory, 0o711, true);
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

export async function createBundle(bundle: Bundle, spec: Uint8Array | undefined): Promise<void> {
  const gid = spec === undefined || spec.length === 0 ? 0 : rootGidOf(spec);
  await makeTree(bundle.path);
  await makeTree(bundle.workPath);
  try {
    await makeDirectory(bundle.path, 0o700, false);
  } catch (error) {
    throw fail('unknown', `bundle ${bundle.path}: ${messageOf(error)}`, error);
  }
  try {
    if (gid !== 0) {
      await chown(bundle.path, -1, gid);
      await chmod(bundle.path, 0o710);
    }
    await makeDirectory(join(bundle.path, 'rootfs'), 0o711, false);
    // A work directory without a bundle is what an earlier boot has left.
    await removeWork(bundle.workPath);
    await makeDirectory(bundle.workPath, 0o711, false);
    await symlink(bundle.workPath, join(bundle.path, 'work'));
    if (spec !== undefined && spec.length > 0) {
      await writeFile(join(bundle.path, 'config.json'), spec, { flag: 'wx', mode: 0o666 });
    }
  } catch (error) {
    await rm(bundle.workPath, { recursive: true, force: true });
    await rm(bundle.path, { recursive: true, force: true });
    throw fail('unknown', `bundle ${bundle.path}: ${messageOf(error)}`, error);
  }
}

export async function removeBundle(bundle: Bundle, unmountAll: UnmountAll): Promise<void> {
  const rootfs = join(bundle.path, 'rootfs');
  // Everything below is unmounted, not the rootfs alone: what follows deletes recursively.
  await unmountAll(bundle.path);
  try {
    await rmdir(rootfs);
  } catch (error) {
    if (!codeIs(error, 'ENOENT'))
      throw fail('unknown', `remove rootfs ${rootfs}: ${messageOf(error)}`, error);
  }
  await removeRenamed(bundle.path);
  await unmountAll(bundle.workPath);
  await removeWork(bundle.workPath);
}

async function removeWork(workPath: string): Promise<void> {
  await removeRenamed(workPath);
}

/** A rename first, so that a half-deleted directory is never taken for a bundle. */
async function removeRenamed(path: string): Promise<void> {
  const doomed = join(dirname(path), `.${path.slice(dirname(path).length + 1)}`);
  await rm(doomed, { recursive: true, force: true });
  try {
    await rename(path, doomed);
  } catch (error) {
    if (codeIs(error, 'ENOENT')) return;
    throw error;
  }
  await rm(doomed, { recursive: true, force: true });
}

/** Replaces the work link of a bundle if it leads elsewhere. */
async function repairWorkLink(bundle: Bundle): Promise<void> {
  const link = join(bundle.path, 'work');
  const target = await readlink(link).catch(() => undefined);
  if (target === bundle.workPath) return;
  await makeTree(bundle.workPath);
  await makeDirectory(bundle.workPath, 0o711, true);
  await unlink(link).catch((error) => {
    if (!codeIs(error, 'ENOENT')) throw error;
  });
  await symlink(bundle.workPath, link);
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (codeIs(error, 'ENOENT')) return undefined;
    throw error;
  }
}

export async function saveAddress(bundle: Bundle, address: ShimAddress): Promise<void> {
  const temporary = join(bundle.path, '.bootstrap.json');
  await writeFile(temporary, formatBootstrapFile(address), { mode: 0o644 });
  await chmod(temporary, 0o644);
  await rename(temporary, join(bundle.path, 'bootstrap.json'));
}

export async function loadAddress(bundle: Bundle): Promise<ShimAddress | undefined> {
  const text = await readText(join(bundle.path, 'bootstrap.json'));
  if (text !== undefined) return parseBootstrapFile(text);
  const legacy = (await readText(join(bundle.path, 'address')))?.trim();
  return legacy === undefined || legacy === '' ? undefined : parseBootstrapFile(legacy);
}

export async function saveSandbox(bundle: Bundle, sandboxId: string): Promise<void> {
  await writeFile(join(bundle.path, 'sandbox'), sandboxId, { mode: 0o600 });
}

export async function loadSandbox(bundle: Bundle): Promise<string | undefined> {
  return (await readText(join(bundle.path, 'sandbox'))) || undefined;
}

export async function saveBinary(bundle: Bundle, binary: string): Promise<void> {
  await writeFile(join(bundle.path, 'shim-binary-path'), binary, { mode: 0o600 });
}

export async function loadBinary(bundle: Bundle): Promise<string | undefined> {
  const path = await readText(join(bundle.path, 'shim-binary-path'));
  return path === undefined || path === '' ? undefined : path;
}

async function names(directory: string): Promise<string[]> {
  let found: string[];
  try {
    found = await readdir(directory);
  } catch (error) {
    if (codeIs(error, 'ENOENT')) return [];
    throw error;
  }
  return found.filter(isIdentifier).sort();
}

/** Deletes what a daemon that was killed had begun to delete. */
async function finishRemovals(directory: string, unmountAll: UnmountAll): Promise<void> {
  const entries = await readdir(directory).catch(() => []);
  for (const name of entries) {
    if (!name.startsWith('.') || !isIdentifier(name.slice(1))) continue;
    const doomed = join(directory, name);
    await unmountAll(doomed);
    await rm(doomed, { recursive: true, force: true });
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
  const found = await Promise.all(
    [roots.state, roots.root].map((dir) => names(join(dir, directoryOf(roots)))),
  );
  return [...new Set(found.flat())].sort();
}

export async function listBundles(
  roots: BundleRoots,
  namespace: string,
  unmountAll: UnmountAll,
): Promise<Bundle[]> {
  const bundles: Bundle[] = [];
  const directory = join(roots.state, directoryOf(roots), namespace);
  await finishRemovals(directory, unmountAll);
  for (const id of await names(directory)) {
    const bundle = bundleOf(roots, { namespace, id });
    const entries = await readdir(bundle.path).catch(() => []);
    if (entries.length === 0) {
      await rm(bundle.path, { recursive: true, force: true });
      continue;
    }
    await repairWorkLink(bundle);
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
  for (const id of await names(directory)) {
    if (keep.has(id)) continue;
    const { workPath } = bundleOf(roots, { namespace, id });
    await unmountAll(workPath);
    await removeWork(workPath);
  }
}
