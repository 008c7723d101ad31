// The face of the garbage collector, at `gc` on the main thread.

export const gcPath = 'gc';

export interface CollectionReport {
  /** Records removed, by kind. */
  readonly removed: Readonly<Record<string, number>>;
  readonly marked: number;
  readonly markMs: number;
  readonly sweepMs: number;
  /** The longest single transaction of the sweep. */
  readonly longestSweepMs: number;
  readonly cleanupMs: number;
}

/** Over all collections since the collector started; times of the completed ones. */
export interface CollectionFigures extends CollectionReport {
  readonly completed: number;
  readonly failed: number;
}

export interface Committed {
  readonly mutations: number;
  /** Those that may have left records that nothing refers to. */
  readonly deletions: number;
  /** Whether bytes may have lost their last record. */
  readonly contentDirty: boolean;
}

export interface GcProtocol {
  /** Runs a whole collection, removal from disk included, that begins after this call. */
  collect: { request: Record<string, never>; reply: CollectionReport };
  /** What a commit wrote, so that the collector knows when there is work. */
  committed: { request: Committed; reply: void };
  figures: { request: Record<string, never>; reply: CollectionFigures };
}
