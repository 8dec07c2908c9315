/**
 * Keeps the event loop awake while the only call under way runs, if its function usually answers
 * sooner than a sleeping process is put to sleep and woken again.
 *
 * The price is the time of one core until the answer comes, `awakeNs` a call at most. A function
 * that takes longer is left in peace for twice as many calls each time, as is one whose answers are
 * late because the machine has no core to spare.
 */
import { nowNs } from '../base/clock.ts';

const awakeNsDefault = 150_000;
const restCallsMax = 1024;

export class Vigil {
  readonly #awakeNs: number;
  readonly #rests = new WeakMap<object, Rest>();

  constructor(options: { awakeNs: number } = { awakeNs: awakeNsDefault }) {
    this.#awakeNs = options.awakeNs;
  }

  /** `isAlone` says whether this call of `fn` is still under way, and no other call is. */
  keep(fn: object, isAlone: () => boolean): void {
    const rest = this.#restOf(fn);
    if (rest.callsLeft > 0) {
      rest.callsLeft--;
      return;
    }
    const untilNs = nowNs() + this.#awakeNs;
    // A turn of the loop looks at every socket: nobody else waits for the end of this.
    const turn = (): void => {
      if (!isAlone()) rest.callsNext = 1;
      else if (nowNs() < untilNs) setImmediate(turn);
      else {
        rest.callsLeft = rest.callsNext;
        rest.callsNext = Math.min(rest.callsNext * 2, restCallsMax);
      }
    };
    setImmediate(turn);
  }

  #restOf(fn: object): Rest {
    const known = this.#rests.get(fn);
    if (known !== undefined) return known;
    const rest = { callsLeft: 0, callsNext: 1 };
    this.#rests.set(fn, rest);
    return rest;
  }
}

/** How many calls of a function go without a vigil: now, and after the next one that fails. */
interface Rest {
  callsLeft: number;
  callsNext: number;
}
