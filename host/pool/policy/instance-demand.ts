/**
 * How many instances one function wants at a time. The n-th instance is needed when n calls run at
 * once, so each count has idle times, and a keep-alive, of its own: the first is missed often, the
 * tenth seldom. It is told when calls take and free instances, and does not know the instances.
 */
import { AdaptiveKeepAlive, type KeepAliveWindow } from './adaptive-keep-alive.ts';

export type KeepAlivePolicy =
  | { readonly policy: 'fixed'; readonly keepMs: number }
  | { readonly policy: 'adaptive'; readonly minuteMs?: number };

/** What the n-th instance has been used for; see GreedyDual. */
export interface InstanceUse {
  count: number;
  /** That of GreedyDual at the last use. */
  clock: number;
}

interface Level {
  use: InstanceUse;
  /** Undefined while it is busy. */
  freeSinceMs: number | undefined;
  /** Whether the next call has been prepared for since then. */
  expected: boolean;
  keepAlive: AdaptiveKeepAlive | undefined;
}

export class InstanceDemand {
  readonly #keepAlive: KeepAlivePolicy;
  readonly #fixed: KeepAliveWindow | undefined;
  /** The n-th instance at n - 1. */
  readonly #levels: Level[] = [];
  #busy = 0;

  constructor(keepAlive: KeepAlivePolicy) {
    this.#keepAlive = keepAlive;
    if (keepAlive.policy === 'fixed') this.#fixed = { fromMs: 0, untilMs: keepAlive.keepMs };
  }

  /** Instances with calls. */
  get busy(): number {
    return this.#busy;
  }

  /** An instance without calls got one. */
  taken(nowMs: number): void {
    const level = (this.#levels[this.#busy++] ??= this.#newLevel());
    if (level.freeSinceMs !== undefined) level.keepAlive?.observe(nowMs - level.freeSinceMs);
    level.freeSinceMs = undefined;
    level.use.count++;
  }

  /** The last call of an instance has ended. */
  freed(nowMs: number, clock: number): void {
    const level = this.#levels[--this.#busy];
    if (level === undefined) throw new RangeError('Freed more instances than were taken');
    level.freeSinceMs = nowMs;
    level.expected = false;
    level.use.clock = clock;
  }

  /** The n-th instance was made without a call for it, and waits for one from now on. */
  added(n: number, nowMs: number, clock: number): void {
    for (let at = this.#levels.length; at < n; at++) this.#levels.push(this.#newLevel());
    const level = this.#levels[n - 1];
    if (level === undefined || n <= this.#busy) return;
    level.freeSinceMs = nowMs;
    level.expected = false;
    level.use.clock = clock;
  }

  /** Instances to have now, busy ones included. */
  wanted(nowMs: number): number {
    let wanted = this.#busy;
    for (let at = this.#busy; at < this.#levels.length; at++)
      if (this.#isWanted(this.#levels[at], nowMs)) wanted++;
    return wanted;
  }

  /**
   * Of the wanted ones, how many calls are expected for of which that was not said before: once for
   * each idle time, so that what is evicted for want of memory is not made again and again. What
   * is beyond `atMost` is said the next time.
   */
  takeExpected(nowMs: number, clock: number, atMost = Infinity): number {
    let expected = 0;
    for (let at = this.#busy; at < this.#levels.length && expected < atMost; at++) {
      const level = this.#levels[at];
      if (level === undefined || level.expected || this.#window(level).fromMs === 0) continue;
      if (!this.#isWanted(level, nowMs)) continue;
      level.expected = true;
      level.use.clock = clock;
      expected++;
    }
    return expected;
  }

  /** Of the n-th instance, n from 1: when n are there, what is lost by having one less. */
  use(n: number): InstanceUse {
    return this.#levels[n - 1]?.use ?? { count: 0, clock: 0 };
  }

  #isWanted(level: Level | undefined, nowMs: number): boolean {
    if (level?.freeSinceMs === undefined) return false;
    const idleMs = nowMs - level.freeSinceMs;
    const { fromMs, untilMs } = this.#window(level);
    return idleMs >= fromMs && idleMs < untilMs;
  }

  #window(level: Level): KeepAliveWindow {
    return this.#fixed ?? level.keepAlive?.window ?? nothing;
  }

  #newLevel(): Level {
    const policy = this.#keepAlive;
    const keepAlive = policy.policy === 'adaptive' ? new AdaptiveKeepAlive(policy) : undefined;
    return { use: { count: 0, clock: 0 }, freeSinceMs: undefined, expected: false, keepAlive };
  }
}

const nothing: KeepAliveWindow = { fromMs: 0, untilMs: 0 };
