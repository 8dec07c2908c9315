/** The calls of one container that its seccomp filter refuses: what to say, and how fast. */

/** So many are answered at once; from then on, one each `paceMs`: floods cost their maker. */
const answeredAtOnce = 100;
const paceMs = 5;

export class Refusals {
  readonly #said = new Set<string>();
  readonly #say: (text: string) => void;
  readonly #nowMs: () => number;
  #nextAnswerMs = 0;

  constructor(say: (text: string) => void, nowMs: () => number = () => performance.now()) {
    this.#say = say;
    this.#nowMs = nowMs;
  }

  /** Says it, once for each name; gives how many milliseconds the answer is to wait. */
  add(name: string): number {
    if (!this.#said.has(name)) {
      this.#said.add(name);
      this.#say(`Refused: the system call "${name}" is not in the seccomp profile\n`);
    }
    const now = this.#nowMs();
    const earliestMs = now - answeredAtOnce * paceMs;
    this.#nextAnswerMs = Math.max(this.#nextAnswerMs, earliestMs) + paceMs;
    return Math.max(0, Math.ceil(this.#nextAnswerMs - now));
  }
}
