/**
 * How many containers to keep parked: enough for the starts that come while one is made again.
 * Grows with the first second of a burst and shrinks over minutes, by two averages as Knative's
 * autoscaler has them: a short one for bursts, a long one for what is usual.
 */
export class ParkedTarget {
  readonly #short = new DecayingRate(shortMs);
  readonly #long = new DecayingRate(longMs);

  /** An instance was started. */
  started(nowMs: number): void {
    this.#short.add(nowMs);
    this.#long.add(nowMs);
  }

  /** `min` is what there is without any demand. */
  target(nowMs: number, { min, max }: { min: number; max: number }): number {
    const perSecond = Math.max(this.#short.perSecond(nowMs), this.#long.perSecond(nowMs));
    const expected = perSecond * leadSeconds;
    // Two standard deviations of a Poisson process above what is expected.
    const demand = expected < negligible ? 0 : Math.ceil(expected + 2 * Math.sqrt(expected));
    return Math.max(min, Math.min(max, min + demand));
  }
}

/** Events per second, the past ones weighing less by e every `windowMs`. */
class DecayingRate {
  readonly #windowMs: number;
  #events = 0;
  #atMs = 0;

  constructor(windowMs: number) {
    this.#windowMs = windowMs;
  }

  add(nowMs: number): void {
    this.#decay(nowMs);
    this.#events++;
  }

  perSecond(nowMs: number): number {
    this.#decay(nowMs);
    return (this.#events * 1000) / this.#windowMs;
  }

  #decay(nowMs: number): void {
    this.#events *= Math.exp(Math.min(this.#atMs - nowMs, 0) / this.#windowMs);
    this.#atMs = Math.max(this.#atMs, nowMs);
  }
}

/** Knative's panic and stable windows. */
const shortMs = 6000;
const longMs = 60_000;
/** By then a refill that had to wait for calls has come through. */
const leadSeconds = 1;
/** Less than one start in a hundred lead times is no demand. */
const negligible = 0.01;
