/**
 * Starts that somebody waits for. They need the processors now: what is made ahead for later ones
 * waits until none is under way.
 */
import { setTimeout as sleep } from 'node:timers/promises';

/** The call that a start was for runs then. */
const graceMs = 5;
/** A function that loads for seconds is not to keep from the others what is made ahead. */
const countsMsMax = 200;

export class StartsUnderWay {
  #count = 0;
  #endedAtMs = -Infinity;
  #waiting: Promise<void> | undefined;

  /** Gives what ends it; calling that again is fine. */
  begin(): () => void {
    this.#count++;
    let isOver = false;
    const end = (): void => {
      if (isOver) return;
      isOver = true;
      clearTimeout(timer);
      this.#endedAtMs = performance.now();
      this.#count--;
    };
    const timer = setTimeout(end, countsMsMax);
    return end;
  }

  /** Resolves when none has been under way for a moment. */
  over(): Promise<void> {
    this.#waiting ??= this.#over().finally(() => {
      this.#waiting = undefined;
    });
    return this.#waiting;
  }

  async #over(): Promise<void> {
    while (this.#count > 0 || performance.now() < this.#endedAtMs + graceMs) await sleep(graceMs);
  }
}

/** One count for all: the processors are the machine's. */
export const startsUnderWay = new StartsUnderWay();
