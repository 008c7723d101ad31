// The face of the mounts actor: mounts that the daemon performs and keeps for its clients.
import type { Mount } from '../../api/proto/gen/types/mount.ts';

export const mountsPath = 'mounts';

export interface Activated {
  readonly active: readonly { readonly mount: Mount; readonly point: string; readonly mountedAtNs: bigint }[];
  readonly system: readonly Mount[];
}

export interface MountsActorProtocol {
  activate: {
    request: {
      namespace: string;
      name: string;
      lease: string | undefined;
      mounts: readonly Mount[];
      labels: Map<string, string>;
      temporary: boolean;
      /** Types that the caller mounts itself (see `PlanOptions`). */
      allowed?: readonly string[];
    };
    reply: Activated;
  };
  deactivate: { request: { namespace: string; name: string }; reply: void };
  /** Unmounts activations whose records are gone, by their numbers. */
  clear: { request: { ids: readonly number[] }; reply: void };
}
