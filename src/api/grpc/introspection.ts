// The Introspection service: which plugins the daemon has, who it is, and what is known about a plugin.
import { fail } from '../model/errors.ts';
import { compileFilters, nonEmpty } from '../model/filter.ts';
import type { Any } from '../proto/gen/google/protobuf/any.ts';
import {
  type DeprecationWarning,
  IntrospectionDefinition,
  type Plugin,
} from '../proto/gen/services/introspection/v1/introspection.ts';
import { type BoundService, bindService } from './bind.ts';

/** Answers what a plugin says of itself for the options of a request (for runtimes: a RuntimeInfo). */
export type PluginInfoProvider = (options: Any, signal: AbortSignal) => Promise<Any>;

export interface IntrospectionDeps {
  /** All plugins, failed ones included, in the order of their start. */
  readonly plugins: () => readonly Plugin[];
  /** Keyed `<type>/<id>`. */
  readonly infoProviders: ReadonlyMap<string, PluginInfoProvider>;
  /** A random UUID, made once per root directory. */
  readonly uuid: string;
  /** Inode of the PID namespace, see pid_namespaces(7). */
  readonly pidns: bigint;
  readonly deprecations: () => readonly DeprecationWarning[];
}

export function introspectionService(deps: IntrospectionDeps): BoundService {
  return bindService(
    IntrospectionDefinition,
    {
      plugins({ filters }) {
        const filter = compileFilters(filters);
        return {
          plugins: deps.plugins().filter((plugin) => filter.matches(([name]) => field(plugin, name))),
        };
      },

      server: () => ({
        uuid: deps.uuid,
        pid: BigInt(process.pid),
        pidns: deps.pidns,
        deprecations: [...deps.deprecations()],
      }),

      async pluginInfo({ type, id, options }, { signal }) {
        const plugin = deps.plugins().find((candidate) => candidate.type === type && candidate.id === id);
        if (plugin === undefined) throw fail('not-found', `plugin ${type}.${id}`);
        if (options === undefined) return { plugin, extra: undefined };
        if (plugin.initErr !== undefined) {
          throw fail('failed-precondition', `plugin ${type}.${id} did not start: ${plugin.initErr.message}`);
        }
        const provider = deps.infoProviders.get(`${type}/${id}`);
        if (provider === undefined) throw fail('unimplemented', `plugin ${type}.${id} gives no information`);
        return { plugin, extra: await provider(options, signal) };
      },
    },
    { namespace: 'none' },
  );
}

function field(plugin: Plugin, name: string | undefined): string | undefined {
  if (name === 'type') return nonEmpty(plugin.type);
  return name === 'id' ? nonEmpty(plugin.id) : undefined;
}
