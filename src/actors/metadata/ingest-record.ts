// The record of an ingest: what outlives the writer that holds it.

/** What is remembered of an ingest while no writer holds it, and for a daemon that starts after a crash. */
export interface IngestRecord {
  /** Number of its bytes in the blob store; unique in the daemon. */
  readonly id: number;
  readonly startedAtNs: bigint;
  /** Bytes, as announced by the client; 0 when it did not. */
  readonly total: number;
  /** The blob that satisfies the ingest without any bytes of its own, else empty. */
  readonly sharedDigest: string;
  /** When a collection may remove it; undefined while a lease decides. */
  readonly expiresAtNs: bigint | undefined;
}

/** JSON, 64-bit numbers as text: the record is ours alone, small, and read by people who mend stores. */
export function encodeIngest(record: IngestRecord): Uint8Array {
  const { id, startedAtNs, total, sharedDigest, expiresAtNs } = record;
  return Buffer.from(
    JSON.stringify({
      id,
      startedAtNs: String(startedAtNs),
      total,
      sharedDigest,
      ...(expiresAtNs === undefined ? {} : { expiresAtNs: String(expiresAtNs) }),
    }),
  );
}

export function decodeIngest(bytes: Uint8Array): IngestRecord {
  const stored = JSON.parse(Buffer.from(bytes).toString('utf8')) as {
    id: number;
    startedAtNs: string;
    total: number;
    sharedDigest: string;
    expiresAtNs?: string;
  };
  return {
    id: stored.id,
    startedAtNs: BigInt(stored.startedAtNs),
    total: stored.total,
    sharedDigest: stored.sharedDigest,
    expiresAtNs: stored.expiresAtNs === undefined ? undefined : BigInt(stored.expiresAtNs),
  };
}
