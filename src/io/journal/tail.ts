// The end of the journal, where the next record goes: one write at a time.
import type { JournalDevice } from './device.ts';
import { Pace, type WritePace } from './pace.ts';
import { blockBytes } from './record.ts';

const firstOffset = blockBytes;

export class JournalTail {
  readonly #pace: WritePace;
  #device: JournalDevice;
  #offset = firstOffset;

  constructor(device: JournalDevice, pace: WritePace = new Pace()) {
    this.#device = device;
    this.#pace = pace;
  }

  get device(): JournalDevice {
    return this.#device;
  }

  /** Whether a write is durable before `write` returns. */
  get atOnce(): boolean {
    return this.#pace.atOnce;
  }

  /** Whether the file has no record yet. */
  get isAtStart(): boolean {
    return this.#offset === firstOffset;
  }

  /** Whether the file was worth its length. */
  get isMostlyFilled(): boolean {
    return this.#offset * 2 > this.#device.sizeBytes;
  }

  moveTo(device: JournalDevice, offset = firstOffset): void {
    this.#device = device;
    this.#offset = offset;
  }

  fits(recordBytes: number): boolean {
    return this.#offset + recordBytes <= this.#device.sizeBytes;
  }

  /** For a record that is longer than a whole file. */
  makeRoomFor(recordBytes: number): Promise<void> {
    return this.#device.grow(this.#offset + recordBytes);
  }

  /** `done` comes at once or later, as `atOnce` says. After an error the record has to be undone. */
  write(record: Buffer, done: (error: unknown) => void): void {
    const beganMs = performance.now();
    const ended = (error: unknown) => {
      if (error === null) {
        this.#pace.wrote(performance.now() - beganMs);
        this.#offset += record.length;
      }
      done(error);
    };
    if (!this.#pace.atOnce) {
      this.#device.write(record, this.#offset, ended);
      return;
    }
    let failure: unknown = null;
    try {
      this.#device.writeSync(record, this.#offset);
    } catch (error) {
      failure = error;
    }
    ended(failure);
  }

  /** Overwrites the first block of a record that was refused, so that it cannot come back. */
  undo(done: (error: unknown) => void): void {
    this.#device.write(Buffer.alloc(blockBytes), this.#offset, done);
  }
}
