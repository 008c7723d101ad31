// How a start that is under way is called off: first politely, then not.

export interface StartSignals {
  /** Aborts when the start is no longer wanted: end what was begun, then reject. */
  readonly starting?: AbortSignal;
  /** Aborts when that takes too long. */
  readonly killing?: AbortSignal;
}

/** Returns what takes the listeners off again. */
export function onStartSignals(
  { starting, killing }: StartSignals,
  { stop, kill }: { stop: () => void; kill: () => void },
): () => void {
  starting?.addEventListener('abort', stop, { once: true });
  killing?.addEventListener('abort', kill, { once: true });
  return () => {
    starting?.removeEventListener('abort', stop);
    killing?.removeEventListener('abort', kill);
  };
}
