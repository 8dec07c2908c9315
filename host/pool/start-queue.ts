/**
 * Whose start is next. Many at one time only wait for each other, in the kernel and in our own
 * event loop, so the rest waits here. Functions take turns; and the start of one that has none
 * under way begins at once, and alone: a function that starts many delays it by the few that are
 * under way, not by all that wait.
 */
export class StartQueue {
  readonly #max: number;
  readonly #maxQueued: number;
  /** The function whose turn is next first. */
  readonly #waiting = new Map<string, (() => void)[]>();
  readonly #underWay = new Map<string, number>();
  #all = 0;
  /** Somebody has gone first since one that waited began: or those who wait would starve. */
  #passed = false;

  /** `maxQueued`: what waited begins only while fewer are under way. */
  constructor({ max, maxQueued }: { max: number; maxQueued: number }) {
    this.#max = max;
    this.#maxQueued = maxQueued;
  }

  get isEmpty(): boolean {
    return this.#all === 0;
  }

  /**
   * Resolves when it may begin, with whether it goes before another one's that is under way; `done`
   * has to follow.
   */
  async turn(functionName: string): Promise<{ passes: boolean }> {
    const passes = this.#all > 0 && this.#isFirst(functionName);
    if (this.#all < this.#maxQueued && this.#waiting.size === 0) {
      this.#begin(functionName);
      return { passes };
    }
    if (this.#mayPass(functionName)) {
      this.#passed = true;
      this.#begin(functionName);
      return { passes };
    }
    await new Promise<void>((resolve) => {
      const waiting = this.#waiting.get(functionName);
      if (waiting === undefined) this.#waiting.set(functionName, [resolve]);
      else waiting.push(resolve);
    });
    return { passes: false };
  }

  done(functionName: string): void {
    this.#all--;
    const left = (this.#underWay.get(functionName) ?? 1) - 1;
    if (left === 0) this.#underWay.delete(functionName);
    else this.#underWay.set(functionName, left);
    if (this.#all < this.#maxQueued) this.#beginNext();
  }

  #mayPass(functionName: string): boolean {
    return this.#isFirst(functionName) && !this.#passed && this.#all < this.#max;
  }

  #isFirst(functionName: string): boolean {
    return !this.#underWay.has(functionName) && !this.#waiting.has(functionName);
  }

  #beginNext(): void {
    for (const [functionName, waiting] of this.#waiting) {
      this.#waiting.delete(functionName);
      const first = waiting.shift();
      // Behind all others: it has had its turn.
      if (waiting.length > 0) this.#waiting.set(functionName, waiting);
      this.#passed = false;
      this.#begin(functionName);
      first?.();
      return;
    }
  }

  #begin(functionName: string): void {
    this.#all++;
    this.#underWay.set(functionName, (this.#underWay.get(functionName) ?? 0) + 1);
  }
}
