/**
 * Starts that somebody waits for. They need the processors now: what is made ahead for later ones
 * waits until none is under way.
 */
import { setTimeout as sleep } from 'node:timers/promises';

/** The call that a start was for runs then. */
const graceMs = 5;
/** Where one is always under way, or takes seconds, what is made ahead helps those to come. */
const waitMsMax = 100;

export class StartsUnderWay {
  #count = 0;
  #endedAtMs = -Infinity;

  begin(): void {
    this.#count++;
  }

  end(): void {
    this.#count--;
    this.#endedAtMs = performance.now();
  }

  /** Resolves when none has been under way for a moment, or after some time. */
  async over(): Promise<void> {
    const untilMs = performance.now() + waitMsMax;
    while (this.#isBusy(performance.now()) && performance.now() < untilMs) await sleep(graceMs);
  }

  #isBusy(nowMs: number): boolean {
    return this.#count > 0 || nowMs < this.#endedAtMs + graceMs;
  }
}

/** One count for all: the processors are the machine's. */
export const startsUnderWay = new StartsUnderWay();
