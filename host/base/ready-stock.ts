/**
 * Things made ahead, each given away once, so that who takes one need not wait for its making. What
 * was taken is made anew when no start is under way, or when that takes long to come.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { startsUnderWay } from './starts-under-way.ts';

/** What is made ahead, by one stock each. */
export const stockNames = [
  'id ranges',
  'cgroups',
  'networks',
  'connected networks',
  'memory roots',
  'snapshots',
  'blank pairs',
] as const;
export type StockName = (typeof stockNames)[number];

export interface ReadyStockOptions<T> {
  name: StockName;
  /** How many to keep ready. */
  count: number;
  make: () => T | Promise<T>;
  /** Ends one that nobody has taken. */
  discard: (item: T) => void | Promise<void>;
  /** One could not be made; the next taking brings the next try. */
  onError?: (error: unknown) => void;
}

export class ReadyStock<T> {
  readonly #options: ReadyStockOptions<T>;
  readonly #ready: T[] = [];
  #filling: Promise<void> | undefined;
  #closed = false;

  constructor(options: ReadyStockOptions<T>) {
    this.#options = options;
  }

  /** The oldest, now the caller's; undefined when none is ready: make one in place then. */
  take(): T | undefined {
    const taken = this.#ready.shift();
    void this.fill();
    return taken;
  }

  get name(): StockName {
    return this.#options.name;
  }

  /** In place, as `fill` makes it: the caller's, not the stock's. */
  async makeOne(): Promise<T> {
    return this.#options.make();
  }

  /** Resolves when all are ready, or one could not be made. */
  fill(): Promise<void> {
    this.#filling ??= this.#fill().finally(() => {
      this.#filling = undefined;
    });
    return this.#filling;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#filling;
    const { discard } = this.#options;
    await Promise.all(this.#ready.splice(0).map(async (item) => discard(item)));
  }

  async #fill(): Promise<void> {
    const { count, onError } = this.#options;
    for (;;) {
      // A turn of the event loop for each: somebody may want a start meanwhile.
      await nextTurn();
      await startsUnderWay.over();
      if (this.#closed || this.#ready.length >= count) return;
      try {
        // What is made while the stock closes is discarded with the rest.
        this.#ready.push(await this.makeOne());
      } catch (error) {
        onError?.(error);
        return;
      }
    }
  }
}
