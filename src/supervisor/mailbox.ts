// A bounded first-in first-out queue with an urgent lane: exit signals overtake ordinary mail and always find room.

/** How far beyond its bound a mailbox takes what must not be refused. */
export const overflowLengthMax = 65_536;

/** A queue in a ring that doubles when it is full. */
class Ring<T> {
  #slots: (T | undefined)[] = [undefined, undefined, undefined, undefined];
  #head = 0;
  length = 0;

  push(item: T): void {
    const size = this.#slots.length;
    if (this.length === size) this.#grow(size);
    this.#slots[(this.#head + this.length) & (this.#slots.length - 1)] = item;
    this.length++;
  }

  shift(): T | undefined {
    if (this.length === 0) return undefined;
    const item = this.#slots[this.#head];
    this.#slots[this.#head] = undefined;
    this.#head = (this.#head + 1) & (this.#slots.length - 1);
    this.length--;
    return item;
  }

  peek(): T | undefined {
    return this.length === 0 ? undefined : this.#slots[this.#head];
  }

  #grow(size: number): void {
    // Slots double, so the size stays a power of two and the mask above holds.
    const bigger = new Array<T | undefined>(size * 2).fill(undefined);
    for (let i = 0; i < size; i++) bigger[i] = this.#slots[(this.#head + i) & (size - 1)];
    this.#slots = bigger;
    this.#head = 0;
  }
}

export class Mailbox<T> {
  readonly lengthMax: number;
  readonly #urgent = new Ring<T>();
  readonly #ordinary = new Ring<T>();

  constructor(lengthMax: number) {
    if (!Number.isSafeInteger(lengthMax) || lengthMax < 1)
      throw new RangeError(`mailbox length ${lengthMax}`);
    this.lengthMax = lengthMax;
  }

  get length(): number {
    return this.#ordinary.length + this.#urgent.length;
  }

  /** False when the ordinary lane is full; nothing was queued then. */
  push(item: T): boolean {
    if (this.#ordinary.length >= this.lengthMax) return false;
    this.#ordinary.push(item);
    return true;
  }

  /**
   * For mail that would otherwise be lost for ever: goes in order behind the ordinary mail, beyond the bound if
   * need be. False when even `overflowLengthMax` more is used up; nothing was queued then.
   */
  pushAlways(item: T): boolean {
    if (this.#ordinary.length >= this.lengthMax + overflowLengthMax) return false;
    this.#ordinary.push(item);
    return true;
  }

  /** False when `overflowLengthMax` is used up; nothing was queued then. */
  pushUrgent(item: T): boolean {
    if (this.#urgent.length >= overflowLengthMax) return false;
    this.#urgent.push(item);
    return true;
  }

  shift(): T | undefined {
    return this.#urgent.length > 0 ? this.#urgent.shift() : this.#ordinary.shift();
  }

  shiftUrgent(): T | undefined {
    return this.#urgent.shift();
  }

  shiftOrdinary(): T | undefined {
    return this.#ordinary.shift();
  }

  peekOrdinary(): T | undefined {
    return this.#ordinary.peek();
  }
}
