// The sandbox controller `podsandbox`: known by its name, but pods are made by the CRI service, which is not here.
import { fail } from '../../api/model/errors.ts';
import type { ShimKey } from '../../api/model/ports/shim.ts';
import type { SandboxController } from './protocol.ts';

/** No pod exists, and none can be made. */
export function podSandboxes(): SandboxController {
  const absent = async ({ id }: ShimKey): Promise<never> => {
    throw fail('not-found', `pod sandbox "${id}"`);
  };
  return {
    async create({ id }) {
      throw fail(
        'unimplemented',
        `pod sandbox "${id}": pods are made by the CRI service, which this daemon does not serve; use the sandboxer "shim"`,
      );
    },
    start: absent,
    stop: absent,
    wait: absent,
    status: absent,
    shutdown: absent,
    metrics: absent,
    address: async () => undefined,
  };
}
