// The shim port over ttrpc: the task services of versions 2 and 3 on one connection.
import { fail } from '../model/errors.ts';
import type { DialShim, ShimConnection } from '../model/ports/shim.ts';
import { TtrpcClient } from './client.ts';

const namespaceKey = 'containerd-namespace-ttrpc';

/** Dials a shim that speaks ttrpc; `others` serves the shims that speak something else. */
export function ttrpcShimDialer(others?: DialShim): DialShim {
  return async (address, options): Promise<ShimConnection> => {
    if (address.protocol !== 'ttrpc') {
      if (others === undefined) throw fail('unimplemented', `shims over ${address.protocol}`);
      return await others(address, options);
    }
    const { namespace, ...dialOptions } = options;
    const client = await TtrpcClient.connect(address.address, dialOptions);
    const metadata = [[namespaceKey, namespace]] as const;
    return {
      get ended() {
        return client.ended;
      },
      closed: client.closed,
      call: (service, method, payload, callOptions) =>
        client.call(service, method, payload, { ...callOptions, metadata }),
      close: () => client.close(),
    };
  };
}
