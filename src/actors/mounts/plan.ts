// What the daemon does for an activation: which mounts it performs, what it makes before, and what it leaves to the
// caller.
import { fail } from '../../api/model/errors.ts';
import { type FilesystemType, filesystemTypes, type MountStep } from '../../api/model/ports/mounts.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { expandTemplate, type Performed } from './template.ts';

export interface MountPlan {
  readonly steps: readonly MountStep[];
  /** What is performed, and on which mount point. */
  readonly active: readonly { readonly mount: Mount; readonly point: string }[];
  /** What the caller mounts. */
  readonly system: readonly Mount[];
}

export interface PlanOptions {
  /** Perform everything, and answer with one bind mount of it. */
  readonly temporary: boolean;
  /** Types that the daemon mounts itself. */
  readonly handlers: ReadonlySet<string>;
  /** Types that whoever gets the rest mounts itself, transformations included; `*` at the end stands for any end. */
  readonly allowed?: readonly string[];
  readonly pathOf: (point: number) => string;
}

export const mountsMax = 255;

const transformNames = ['format', 'mkdir', 'mkfs'] as const;
type Transform = (typeof transformNames)[number];
const optionPrefix = 'X-containerd.';

/** Throws `unimplemented` when nothing needs the daemon: the caller then mounts everything itself. */
export function planMounts(
  mounts: readonly Mount[],
  { temporary, handlers, allowed = [], pathOf }: PlanOptions,
): MountPlan {
  if (mounts.length > mountsMax)
    throw fail('invalid-argument', `an activation has at most ${mountsMax} mounts`);
  const parsed = mounts.map((mount) =>
    isAllowed(mount.type, allowed)
      ? { mount, type: mount.type, transforms: [], handled: false }
      : { mount, ...splitType(mount.type), handled: handlers.has(splitType(mount.type).type) },
  );
  const lastHandled = parsed.findLastIndex(({ handled }) => handled);
  const lastTransformed = parsed.findLastIndex(({ transforms }) => transforms.length > 0);
  if (!temporary && lastHandled < 0 && lastTransformed < 0) {
    throw fail('unimplemented', 'no mount needs the daemon: mount them directly');
  }
  const separate = Math.max(lastHandled + 1, lastTransformed);
  // A stack for the caller goes to one mount point, as it would at the caller's.
  const pointCount = separate + (temporary && separate < mounts.length ? 1 : 0);
  // Counting down, so that the lowest is to be unmounted first.
  const pointOf = (index: number): number => pointCount - 1 - index;
  const steps: MountStep[] = [];
  const performed: Performed[] = [];
  const active: { mount: Mount; point: string }[] = [];
  const system: Mount[] = [];
  parsed.forEach(({ mount, type, transforms }, index) => {
    let rewritten = { ...mount, type };
    for (const transform of transforms) rewritten = transformed(rewritten, transform, performed, steps);
    if (index >= separate) {
      system.push(rewritten);
      return;
    }
    const point = pathOf(pointOf(index));
    steps.push({ kind: 'mount', mounts: [rewritten], point: pointOf(index) });
    performed.push({ source: rewritten.source, target: rewritten.target, point });
    active.push({ mount: rewritten, point });
  });
  if (!temporary) return { steps, active, system };
  if (system.length > 0) {
    steps.push({ kind: 'mount', mounts: system, point: 0 });
    active.push({ mount: system[0] as Mount, point: pathOf(0) });
  }
  const source = active.at(-1)?.point;
  if (source === undefined) throw fail('invalid-argument', 'an activation needs at least one mount');
  return { steps, active, system: [{ type: 'bind', source, target: '', options: ['rbind'] }] };
}

/** Whether a mount may need the daemon: it has a transformation, or a type that the daemon mounts itself. */
export function isSpecial(type: string, handlers: ReadonlySet<string>): boolean {
  return handlers.has(type) || transformNames.some((name) => type.startsWith(`${name}/`));
}

function isAllowed(type: string, allowed: readonly string[]): boolean {
  return allowed.some((one) => (one.endsWith('*') ? type.startsWith(one.slice(0, -1)) : type === one));
}

function splitType(type: string): { type: string; transforms: Transform[] } {
  const transforms: Transform[] = [];
  let rest = type;
  for (;;) {
    const name = transformNames.find((one) => rest.startsWith(`${one}/`));
    if (name === undefined) return { type: rest, transforms };
    transforms.push(name);
    rest = rest.slice(name.length + 1);
  }
}

function transformed(
  mount: Mount,
  transform: Transform,
  performed: readonly Performed[],
  steps: MountStep[],
): Mount {
  if (transform === 'format') {
    const expand = (text: string) => expandTemplate(text, performed);
    const { source, target, options } = mount;
    return { ...mount, source: expand(source), target: expand(target), options: options.map(expand) };
  }
  const own = `${optionPrefix}${transform}.`;
  const settings = mount.options
    .filter((option) => option.startsWith(own))
    .map((option) => option.slice(own.length));
  if (transform === 'mkdir') for (const setting of settings) steps.push(directoryStep(setting));
  else steps.push(filesystemStep(mount.source, settings));
  return { ...mount, options: mount.options.filter((option) => !option.startsWith(own)) };
}

/** `path=<path>[:mode[:uid:gid]]` */
function directoryStep(setting: string): MountStep {
  const [path = '', mode = '0700', uid, gid, ...more] = setting.replace(/^path=/, '').split(':');
  const number = /^\d{1,10}$/;
  const owned = uid !== undefined && gid !== undefined && number.test(uid) && number.test(gid);
  const wellFormed = setting.startsWith('path=') && path.startsWith('/') && /^0?[0-7]{1,4}$/.test(mode);
  if (!wellFormed || more.length > 0 || (uid !== undefined && !owned)) {
    throw fail(
      'invalid-argument',
      `mkdir of a mount: "${setting}" is not path=<absolute path>[:mode[:uid:gid]]`,
    );
  }
  const owner = owned ? { uid: Number(uid), gid: Number(gid) } : undefined;
  return { kind: 'directory', path, mode: Number.parseInt(mode, 8), owner };
}

function filesystemStep(path: string, settings: readonly string[]): MountStep {
  const given = new Map(
    settings.map((setting) => {
      const equals = setting.indexOf('=');
      return [setting.slice(0, Math.max(equals, 0)), setting.slice(equals + 1)] as const;
    }),
  );
  for (const key of given.keys()) {
    if (key !== 'size' && key !== 'fs' && key !== 'uuid') {
      throw fail('invalid-argument', `mkfs of a mount: "${key}" is none of size, fs and uuid`);
    }
  }
  const wanted = given.get('fs') ?? 'ext4';
  const type = filesystemTypes.find((known): known is FilesystemType => known === wanted);
  if (type === undefined) {
    throw fail('invalid-argument', `mkfs of a mount: "${wanted}" is none of ${filesystemTypes.join(', ')}`);
  }
  const uuid = given.get('uuid');
  if (uuid !== undefined && !/^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$/.test(uuid)) {
    throw fail('invalid-argument', `mkfs of a mount: "${uuid}" is no UUID`);
  }
  return { kind: 'filesystem', path, type, sizeBytes: parseSize(given.get('size')), uuid };
}

const units = 'kmgtp';

/** `10485760`, `10m`, `10MB` and `10MiB` are the same. */
function parseSize(text: string | undefined): number {
  const m = /^(\d{1,15})\s*(?:([kmgtp])i?)?b?$/i.exec(text ?? '');
  const bytes = m === null ? 0 : Number(m[1]) * 1024 ** (units.indexOf((m[2] ?? ' ').toLowerCase()) + 1);
  if (bytes > 0 && Number.isSafeInteger(bytes)) return bytes;
  throw fail(
    'invalid-argument',
    `mkfs of a mount: size "${text ?? ''}" is not a number of bytes such as 64MiB`,
  );
}
