// What this daemon was asked to do that will not be supported for ever, for Introspection.Server: each once, with the
// last time it was met.
import type { Clock } from '../api/model/time.ts';
import { timestampOfNs } from '../api/model/time.ts';
import type { DeprecationWarning } from '../api/proto/gen/services/introspection/v1/introspection.ts';

const prefix = 'io.containerd.deprecation/';

const messages = {
  'cri-registry-mirrors':
    'mirrors of registries in the configuration: use a directory of hosts.toml files instead',
  'cri-registry-auths': 'auths of registries in the configuration: use pull secrets instead',
  'cri-registry-configs':
    'configs of registries in the configuration: use a directory of hosts.toml files instead',
  'cri-cni-bin-dir': 'bin_dir of CNI in the configuration: use bin_dirs instead',
  'enable-cdi': 'enable_cdi in the configuration: CDI is on always',
  'tracing-processor-config':
    'settings of the tracing processor in the configuration: use the variables of OpenTelemetry',
  'tracing-service-config': 'settings of tracing in the configuration: use the variables of OpenTelemetry',
  'cgroup-v1': 'this machine has cgroups of version 1: use version 2',
} as const;

export type DeprecationId = keyof typeof messages;

export class Deprecations {
  readonly #clock: Clock;
  readonly #met = new Map<DeprecationId, bigint>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  met(id: DeprecationId): void {
    this.#met.set(id, this.#clock.nowNs());
  }

  list(): DeprecationWarning[] {
    return [...this.#met].map(([id, atNs]) => ({
      id: prefix + id,
      message: messages[id],
      lastOccurrence: timestampOfNs(atNs),
    }));
  }
}

type Plugins = ReadonlyMap<string, Readonly<Record<string, unknown>>>;

/** Where a setting of containerd's configuration is: plugin, then keys. */
const settings: readonly (readonly [DeprecationId, string, ...string[]])[] = [
  ...(['mirrors', 'auths', 'configs'] as const).flatMap((key) => [
    [`cri-registry-${key}`, 'io.containerd.grpc.v1.cri', 'registry', key] as const,
    [`cri-registry-${key}`, 'io.containerd.cri.v1.images', 'registry', key] as const,
  ]),
  ['cri-cni-bin-dir', 'io.containerd.grpc.v1.cri', 'cni', 'bin_dir'],
  ['cri-cni-bin-dir', 'io.containerd.cri.v1.runtime', 'cni', 'bin_dir'],
  ['enable-cdi', 'io.containerd.grpc.v1.cri', 'enable_cdi'],
  ['enable-cdi', 'io.containerd.cri.v1.runtime', 'enable_cdi'],
  ['tracing-processor-config', 'io.containerd.tracing.processor.v1.otlp'],
  ['tracing-service-config', 'io.containerd.internal.v1.tracing'],
];

/** The deprecated settings of a configuration: those that are there and not empty. */
export function deprecatedSettings(plugins: Plugins): DeprecationId[] {
  const found = settings.filter(([, plugin, ...keys]) => {
    let value: unknown = plugins.get(plugin);
    for (const key of keys) value = (value as Record<string, unknown> | undefined)?.[key];
    if (typeof value === 'object' && value !== null) return Object.keys(value).length > 0;
    return value !== undefined && value !== '' && value !== false;
  });
  return [...new Set(found.map(([id]) => id))];
}
