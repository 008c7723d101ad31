// What a shim has to know of config.json.
import { readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import { fail, messageOf } from '../../api/model/errors.ts';
import type { SpecFacts } from '../../api/model/ports/container-host.ts';

interface Spec {
  root?: { path?: unknown };
  process?: { args?: unknown; env?: unknown; cwd?: unknown };
  mounts?: { destination?: unknown }[];
  hooks?: Record<string, unknown>;
  annotations?: Record<string, unknown>;
  linux?: { namespaces?: { type?: unknown; path?: unknown }[] };
}

export function readSpec(bundle: string): SpecFacts {
  const path = join(bundle, 'config.json');
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw fail('unknown', `read ${path}: ${messageOf(error)}`, error);
  }
  return specFacts(text, path);
}

export function specFacts(text: string, path: string): SpecFacts {
  let spec: Spec | null;
  try {
    spec = JSON.parse(text) as Spec | null;
  } catch (error) {
    throw fail('unknown', `${path}: ${messageOf(error)}`, error);
  }
  const namespaces = Array.isArray(spec?.linux?.namespaces) ? spec.linux.namespaces : [];
  const pid = namespaces.find((namespace) => namespace?.type === 'pid');
  const hooks = Object.values(spec?.hooks ?? {});
  const annotations = Object.entries(spec?.annotations ?? {});
  return {
    hasHooks: hooks.some((list) => Array.isArray(list) && list.length > 0),
    privatePid: pid !== undefined && (pid.path === undefined || pid.path === ''),
    rootPath: typeof spec?.root?.path === 'string' ? spec.root.path : 'rootfs',
    annotations: Object.fromEntries(annotations.map(([key, value]) => [key, String(value)])),
    command: commandOf(spec?.process ?? {}),
    mountPoints: (Array.isArray(spec?.mounts) ? spec.mounts : []).flatMap((mount) =>
      typeof mount?.destination === 'string' ? [posix.resolve('/', mount.destination)] : [],
    ),
  };
}

function commandOf({ args, env, cwd }: NonNullable<Spec['process']>): SpecFacts['command'] {
  const name: unknown = Array.isArray(args) ? args[0] : undefined;
  if (typeof name !== 'string' || name === '') return undefined;
  const variable: unknown = (Array.isArray(env) ? env : []).findLast((pair) =>
    String(pair).startsWith('PATH='),
  );
  // Without one every runtime looks where it thinks best.
  if (variable === undefined && !name.includes('/')) return undefined;
  const searchPath = String(variable ?? '')
    .slice('PATH='.length)
    .split(':');
  return { name, searchPath, cwd: typeof cwd === 'string' ? cwd : '/' };
}
