// `[proxy_plugins.NAME]` of config.toml: plugins that live behind somebody else's gRPC socket.
import { fail } from '../../api/model/errors.ts';
import type { Section } from './section.ts';

export const proxyTypes = ['snapshot', 'content', 'diff', 'sandbox'] as const;

export interface ProxyPluginConfig {
  readonly name: string;
  readonly type: (typeof proxyTypes)[number];
  /** A socket path. */
  readonly address: string;
  /** `os/architecture[/variant]`; empty for this machine's. */
  readonly platform: string;
  readonly capabilities: readonly string[];
  readonly exports: Readonly<Record<string, string>>;
}

const pluginsMax = 64;

export function proxyPluginsFrom(section: Section | undefined): {
  list: readonly ProxyPluginConfig[];
  unknownKeys: string[];
} {
  if (section === undefined) return { list: [], unknownKeys: [] };
  const unknownKeys: string[] = [];
  const list = section.keys().map((name): ProxyPluginConfig => {
    const where = `config: proxy_plugins."${name}"`;
    const table = section.section(name);
    const text = (key: string) => table?.string(key) ?? '';
    const type = proxyTypes.find((known) => known === text('type'));
    if (type === undefined) {
      throw fail(
        'invalid-argument',
        `${where}: type must be one of ${proxyTypes.join(', ')}, not "${text('type')}"`,
      );
    }
    const address = text('address').replace(/^unix:\/\//, '');
    if (!address.startsWith('/')) {
      throw fail('invalid-argument', `${where}: address must be the path of a socket, not "${address}"`);
    }
    const exports = table?.table('exports') ?? {};
    if (Object.values(exports).some((value) => typeof value !== 'string')) {
      throw fail('invalid-argument', `${where}: exports must be strings`);
    }
    const plugin = {
      name,
      type,
      address,
      platform: text('platform'),
      capabilities: table?.strings('capabilities') ?? [],
      exports: { ...(exports as Record<string, string>) },
    };
    unknownKeys.push(...(table?.unknown() ?? []));
    return plugin;
  });
  if (list.length > pluginsMax)
    throw fail('invalid-argument', `config: more than ${pluginsMax} proxy_plugins`);
  return { list, unknownKeys };
}
