/**
 * Memory as the currency of admission: an instance starts when its memory is granted. What is
 * granted is what instances of the function were measured to take, not their limit: limits would
 * forbid most of what a machine can do. Growth is charged when it is seen, within a second or so;
 * what slips through shows as memory pressure.
 */
export class MemoryBudget<Holder extends object> {
  readonly totalBytes: number;
  readonly #granted = new Map<Holder, number>();
  #reservedBytes = 0;
  #usedBytes = 0;

  constructor(totalBytes: number) {
    this.totalBytes = totalBytes;
  }

  /** How many hold some. */
  get count(): number {
    return this.#granted.size;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** What is taken besides, by nobody who holds some. */
  reserve(bytes: number): void {
    this.#usedBytes += bytes - this.#reservedBytes;
    this.#reservedBytes = bytes;
  }

  /** How many bytes are missing for so many more; 0 when there is room. */
  missing(bytes: number): number {
    return Math.max(this.#usedBytes + bytes - this.totalBytes, 0);
  }

  /** What the holder is charged from now on, whatever it was before. */
  charge(holder: Holder, bytes: number): void {
    this.#usedBytes += bytes - this.chargeOf(holder);
    this.#granted.set(holder, bytes);
  }

  chargeOf(holder: Holder): number {
    return this.#granted.get(holder) ?? 0;
  }

  release(holder: Holder): void {
    this.#usedBytes -= this.chargeOf(holder);
    this.#granted.delete(holder);
  }
}
