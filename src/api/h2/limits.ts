// How much of everything a client of the server may have, and how often it may do what costs only the server.

export interface H2Limits {
  /** Calls at a time on one connection; those that were canceled count until their handlers have returned. */
  readonly concurrentStreamsMax: number;
  /** As SETTINGS_MAX_HEADER_LIST_SIZE counts. */
  readonly headerListBytesMax: number;
  /** A header block as it is sent, over all its frames. */
  readonly headerBlockBytesMax: number;
  /** How much of a request stream, and of all streams of a connection, may arrive before it is read. */
  readonly streamWindowBytes: number;
  readonly connectionWindowBytes: number;
  /** Responses that wait for a client: with more of them its further calls wait, too. */
  readonly unsentBytesMax: number;
  /** What the socket holds beyond what the kernel takes. */
  readonly backlogBytesMax: number;
  /** PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty and unknown frames: at once, and from then on. */
  readonly controlBurst: number;
  readonly controlPerSecond: number;
  /** Calls that are canceled. This is ordinary for the clients of a daemon, and they are no strangers. */
  readonly resetBurst: number;
  readonly resetPerSecond: number;
}

export const limitsDefault: H2Limits = {
  concurrentStreamsMax: 4096,
  headerListBytesMax: 64 * 1024,
  headerBlockBytesMax: 96 * 1024,
  streamWindowBytes: 1024 * 1024,
  connectionWindowBytes: 64 * 1024 * 1024,
  unsentBytesMax: 64 * 1024 * 1024,
  backlogBytesMax: 1024 * 1024,
  controlBurst: 10_000,
  controlPerSecond: 2000,
  resetBurst: 100_000,
  resetPerSecond: 10_000,
};
