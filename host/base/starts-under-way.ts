/**
 * Starts of instances that have begun and not ended. They need the processors now: the stocks for
 * later ones (ready-stock.ts) are filled when none is under way.
 */
import { setTimeout as sleep } from 'node:timers/promises';

/** The call that a start was for runs then. */
const graceMs = 5;
/** Where one is always under way, or takes seconds, full stocks help those to come. */
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

  /** Resolves when none has been under way for `graceMs`, or after `waitMsMax`. */
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
