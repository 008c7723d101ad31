// The standard health service (grpc.health.v1): the daemon as a whole, under the empty name, is what can be asked for.
import { fail } from '../model/errors.ts';
import { HealthCheckResponse_ServingStatus, HealthDefinition } from '../proto/gen/grpc/health/v1/health.ts';
import { type BoundService, bindService } from './bind.ts';

export function healthService(): BoundService {
  const { SERVING, SERVICE_UNKNOWN } = HealthCheckResponse_ServingStatus;
  return bindService(
    HealthDefinition,
    {
      check({ service }) {
        if (service !== '') throw fail('not-found', `health of service "${service}"`);
        return { status: SERVING };
      },
      // Nothing changes while the daemon serves, so the first answer is the only one and the stream stays open.
      async *watch({ service }, { signal }) {
        yield { status: service === '' ? SERVING : SERVICE_UNKNOWN };
        await new Promise<void>((resolve) => {
          if (signal.aborted) resolve();
          else signal.addEventListener('abort', () => resolve(), { once: true });
        });
      },
    },
    { namespace: 'none', methods: { watch: { endless: true } } },
  );
}
