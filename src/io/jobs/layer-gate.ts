// How many layers come in at once: as many as keep the processors busy. A further one would only take turns with them,
// and the last ones would end one by one with processors to spare; but one that waits for its registry leaves room.
export interface LayerGateOptions {
  /** Layers that arrive fast at once. */
  readonly processors: number;
  /** Layers at once, however slow they are. */
  readonly layersMax: number;
}

/** As much of a layer keeps a good part of a processor busy. */
const fastBytesPerSecond = 24 * 1024 * 1024;
const lookIntervalMs = 500;

export interface Passage {
  /** Bytes of the layer that have come so far. */
  progress(offset: number): void;
  leave(): void;
}

interface Entrant {
  offset: number;
  /** At the last look; undefined: it has only just begun, and counts as fast. */
  seenOffset: number | undefined;
  fast: boolean;
}

export class LayerGate {
  readonly #options: LayerGateOptions;
  readonly #inside = new Set<Entrant>();
  readonly #waiting = new Set<(passage: Passage) => void>();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: LayerGateOptions) {
    this.#options = options;
  }

  /** Waits for its turn, first come first served; rejects with the signal's reason. */
  enter(signal?: AbortSignal): Promise<Passage> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const go = (passage: Passage): void => {
        signal?.removeEventListener('abort', giveUp);
        resolve(passage);
      };
      const giveUp = (): void => {
        this.#waiting.delete(go);
        this.#watch();
        reject(signal?.reason);
      };
      signal?.addEventListener('abort', giveUp, { once: true });
      this.#waiting.add(go);
      this.#admit();
    });
  }

  /** Judges by what has come in this time who is held up by a registry, and lets others in instead. */
  look(elapsedMs: number): void {
    for (const entrant of this.#inside) {
      const { offset, seenOffset } = entrant;
      if (seenOffset !== undefined) {
        entrant.fast = (offset - seenOffset) * 1000 >= fastBytesPerSecond * elapsedMs;
      }
      entrant.seenOffset = offset;
    }
    this.#admit();
  }

  #admit(): void {
    for (const go of this.#waiting) {
      if (!this.#hasRoom()) break;
      this.#waiting.delete(go);
      go(this.#let());
    }
    this.#watch();
  }

  #hasRoom(): boolean {
    const { processors, layersMax } = this.#options;
    let fast = 0;
    for (const entrant of this.#inside) if (entrant.fast) fast++;
    return this.#inside.size < layersMax && fast < processors;
  }

  #let(): Passage {
    const entrant: Entrant = { offset: 0, seenOffset: undefined, fast: true };
    this.#inside.add(entrant);
    return {
      progress: (offset) => {
        entrant.offset = offset;
      },
      leave: () => {
        this.#inside.delete(entrant);
        this.#admit();
      },
    };
  }

  /** Looks while somebody waits. */
  #watch(): void {
    if (this.#waiting.size > 0) {
      this.#timer ??= setInterval(() => this.look(lookIntervalMs), lookIntervalMs).unref();
      return;
    }
    clearInterval(this.#timer);
    this.#timer = undefined;
    for (const entrant of this.#inside) entrant.seenOffset = undefined;
  }
}
