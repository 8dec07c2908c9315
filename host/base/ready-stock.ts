/**
 * Things made ahead, each given away once, so that who takes one need not wait for its making. What
 * was taken is made anew when nobody has taken any for a moment: whoever just did is in the middle
 * of a start, and needs the processors now.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';

export interface ReadyStockOptions<T> {
  /** How many to keep ready. */
  count: number;
  make: () => T | Promise<T>;
  /** Ends one that nobody has taken. */
  discard: (item: T) => void | Promise<void>;
  /** One could not be made; the next taking brings the next try. */
  onError?: (error: unknown) => void;
  /** How long after a taking others are made. */
  quietMs?: number;
}

/** A start is over by then. */
const defaultQuietMs = 20;

export class ReadyStock<T> {
  readonly #options: ReadyStockOptions<T>;
  readonly #ready: T[] = [];
  #timer: NodeJS.Timeout | undefined;
  #filling: Promise<void> | undefined;
  #closed = false;

  constructor(options: ReadyStockOptions<T>) {
    this.#options = options;
  }

  /** The oldest, now the caller's; undefined when none is ready: make one in place then. */
  take(): T | undefined {
    const taken = this.#ready.shift();
    this.putOff();
    return taken;
  }

  /** As if one had been taken: a start that needs none is no more to be disturbed. */
  putOff(): void {
    const { count, quietMs = defaultQuietMs } = this.#options;
    if (this.#closed || this.#ready.length >= count) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.fill();
    }, quietMs);
  }

  /** Resolves when all are ready, one could not be made, or somebody has taken one meanwhile. */
  fill(): Promise<void> {
    this.#filling ??= this.#fill().finally(() => {
      this.#filling = undefined;
    });
    return this.#filling;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#filling;
    const { discard } = this.#options;
    await Promise.all(this.#ready.splice(0).map(async (item) => discard(item)));
  }

  async #fill(): Promise<void> {
    const { count, make, onError } = this.#options;
    while (this.#ready.length < count && this.#timer === undefined && !this.#closed) {
      try {
        // What is made while the stock closes is discarded with the rest.
        this.#ready.push(await make());
      } catch (error) {
        onError?.(error);
        return;
      }
      // A turn of the event loop for each: somebody may want a start meanwhile.
      await nextTurn();
    }
  }
}
