/**
 * How long a function is idle between calls, counted up to four hours: the histogram of Shahrad et
 * al., "Serverless in the Wild", USENIX ATC 2020, section 4.2. Its bins are a minute wide, which is
 * the resolution of their data. Here they grow by a constant ratio from the first minute on, as do
 * the margins that are put around them: 5 minutes are told from 5.2, 2 hours from 2.1. What is
 * shorter than a minute stays in one bin: nobody should guess there.
 */
export class IdleHistogram {
  readonly #bins = new Uint16Array(binCount);
  #inRange = 0;
  #outOfRange = 0;
  /** Of the bins' squares, for their coefficient of variation. */
  #squares = 0;

  record(idleMs: number): void {
    const bin = binOf(idleMs);
    const count = this.#bins[bin];
    if (count === undefined) {
      this.#outOfRange++;
      return;
    }
    this.#bins[bin] = count + 1;
    this.#inRange++;
    this.#squares += 2 * count + 1;
    if (count + 1 === binCountMax) this.#halve();
  }

  /**
   * Whether past idle times tell the next: enough of them, most within range, and gathered in few
   * bins. Times spread evenly over all bins have a coefficient of variation of 0.
   */
  get isTelling(): boolean {
    if (this.#inRange < samplesMin || this.#outOfRange > this.#inRange) return false;
    const mean = this.#inRange / binCount;
    const variance = this.#squares / binCount - mean * mean;
    return Math.sqrt(variance) >= variationMin * mean;
  }

  /** From the start of the bin that reaches the one share of the idle times to the other's end. */
  range(shares: { head: number; tail: number }): { headMs: number; tailMs: number } {
    let seen = 0;
    let headMs: number | undefined;
    for (const [bin, count] of this.#bins.entries()) {
      if (count === 0) continue;
      seen += count;
      if (seen >= shares.head * this.#inRange) headMs ??= startOf(bin);
      if (seen >= shares.tail * this.#inRange)
        return { headMs: headMs ?? 0, tailMs: startOf(bin + 1) };
    }
    return { headMs: 0, tailMs: 0 };
  }

  /** Keeps the counters small, and lets what is long past weigh less. */
  #halve(): void {
    this.#inRange = 0;
    this.#squares = 0;
    this.#outOfRange >>= 1;
    for (const [bin, count] of this.#bins.entries()) {
      const half = count >> 1;
      this.#bins[bin] = half;
      this.#inRange += half;
      this.#squares += half * half;
    }
  }
}

function binOf(idleMs: number): number {
  if (idleMs < firstBinMs) return 0;
  return 1 + Math.floor(Math.log2(idleMs / firstBinMs) * binsPerDoubling);
}

function startOf(bin: number): number {
  return bin === 0 ? 0 : firstBinMs * 2 ** ((bin - 1) / binsPerDoubling);
}

export const firstBinMs = 60_000;
const rangeMs = 4 * 3_600_000;
const binsPerDoubling = 16;
const binCount = binOf(rangeMs) + 1;
const binCountMax = 2 ** 16 - 1;
/** Fewer say nothing about a 5th or a 99th percentile. */
const samplesMin = 5;
/** The paper's threshold, section 5.2. */
const variationMin = 2;
