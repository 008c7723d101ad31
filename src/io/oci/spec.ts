// What a shim has to know of config.json.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fail, messageOf } from '../../api/model/errors.ts';
import type { SpecFacts } from '../../api/model/ports/container-host.ts';

interface Spec {
  root?: { path?: unknown };
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
  };
}
