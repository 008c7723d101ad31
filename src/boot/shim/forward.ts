// The way of events to the daemon: its ttrpc socket, dialed when needed and again after it was gone.
import { BinaryWriter } from '@bufbuild/protobuf/wire';
import { fail } from '../../api/model/errors.ts';
import { dial } from '../../api/ttrpc/address.ts';
import { TtrpcClient } from '../../api/ttrpc/client.ts';

const dialTimeoutMs = 5_000;
const forwardTimeoutMs = 5_000;
/** Field 1 of ForwardRequest, which holds the envelope: it is sent on as it was encoded. */
const envelopeTag = 10;

export function eventForwarder(address: string, namespace: string): (envelope: Uint8Array) => Promise<void> {
  let client: Promise<TtrpcClient> | undefined;
  const metadata = [['containerd-namespace-ttrpc', namespace]] as const;
  const connected = (): Promise<TtrpcClient> => {
    if (client !== undefined) return client;
    const dialed = dial(address.startsWith('/') ? `unix://${address}` : address, {
      timeoutMs: dialTimeoutMs,
    }).then((socket) => new TtrpcClient(socket));
    client = dialed;
    const forget = () => {
      if (client === dialed) client = undefined;
    };
    dialed.then((live) => live.closed.then(forget), forget);
    return dialed;
  };
  return async (envelope) => {
    if (address === '') throw fail('unavailable', 'the daemon has named no address for events');
    const live = await connected();
    const request = new BinaryWriter().uint32(envelopeTag).bytes(envelope).finish();
    await live.call('containerd.services.events.ttrpc.v1.Events', 'Forward', request, {
      deadlineMs: forwardTimeoutMs,
      metadata,
    });
  };
}
