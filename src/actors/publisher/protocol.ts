// The face of the publisher: events of this shim on their way to the daemon. Lives at `publisher`.

export interface PublishRequest {
  /** Events of one container arrive in order. */
  readonly containerId: string;
  /** An encoded containerd.types.Envelope. */
  readonly envelope: Uint8Array;
  /** Set for exits: who is told when the daemon has acknowledged it. Exits are kept whatever else has to go. */
  readonly exitOf?: string;
}

export interface PublisherProtocol {
  publish: { request: PublishRequest; reply: undefined };
}

export const publisherPath = 'publisher';
