// A bounded first-in first-out queue with an urgent lane: stop and exit signals overtake ordinary mail and
// always find room.

export class Mailbox<T> {
  readonly lengthMax: number;
  #urgent: T[] = [];
  #ring: (T | undefined)[];
  #head = 0;
  #length = 0;

  constructor(lengthMax: number) {
    if (!Number.isSafeInteger(lengthMax) || lengthMax < 1)
      throw new RangeError(`mailbox length ${lengthMax}`);
    this.lengthMax = lengthMax;
    this.#ring = new Array(Math.min(16, lengthMax));
  }

  get length(): number {
    return this.#length + this.#urgent.length;
  }

  /** False when the ordinary lane is full; nothing was queued then. */
  push(item: T): boolean {
    if (this.#length === this.lengthMax) return false;
    if (this.#length === this.#ring.length) this.#grow();
    this.#ring[(this.#head + this.#length) % this.#ring.length] = item;
    this.#length++;
    return true;
  }

  pushUrgent(item: T): void {
    this.#urgent.push(item);
  }

  shift(): T | undefined {
    if (this.#urgent.length > 0) return this.#urgent.shift();
    return this.shiftOrdinary();
  }

  shiftUrgent(): T | undefined {
    return this.#urgent.shift();
  }

  shiftOrdinary(): T | undefined {
    if (this.#length === 0) return undefined;
    const item = this.#ring[this.#head];
    this.#ring[this.#head] = undefined;
    this.#head = (this.#head + 1) % this.#ring.length;
    this.#length--;
    return item;
  }

  peekOrdinary(): T | undefined {
    return this.#length === 0 ? undefined : this.#ring[this.#head];
  }

  #grow(): void {
    const bigger: (T | undefined)[] = new Array(Math.min(this.#ring.length * 2, this.lengthMax));
    for (let i = 0; i < this.#length; i++) bigger[i] = this.#ring[(this.#head + i) % this.#ring.length];
    this.#ring = bigger;
    this.#head = 0;
  }
}
