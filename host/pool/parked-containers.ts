/**
 * Containers made ahead, waiting for a function of their trust class: on one shelf for each class,
 * since what a container was forked from is nobody else's to know. Each is given away once.
 */
import { messageOf } from '../base/errors.ts';
import type { Sandbox } from '../sandbox/sandbox.ts';
import { trustKey, type TrustClass } from '../zygote/trust-class.ts';

/** After one could not be made. */
const retryMs = 1000;

export interface ParkedContainersOptions {
  /** Resolves when the container waits for a function of that class. */
  make: (trust: TrustClass) => Promise<ParkedContainer>;
  /** At most this many are made a second, so that filling up never starves the calls. */
  refillsPerSecond: number;
  onError: (message: string) => void;
}

export interface ParkedContainer {
  sandbox: Sandbox;
  path: 'parked';
}

/** How many containers of a class to keep ready. */
export interface ParkedWish {
  trust: TrustClass;
  count: number;
  /** Of those, how many functions have asked for: they are made also while calls wait. */
  reserved: number;
}

interface Shelf extends ParkedWish {
  ready: ParkedContainer[];
  /** Counts how often everything on it was given up. */
  renewals: number;
}

export class ParkedContainers {
  readonly #options: ParkedContainersOptions;
  /** By the key of the class; the one that was filled last comes last. */
  readonly #shelves = new Map<string, Shelf>();
  #refillsPerSecond: number;
  #refilling: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #held = false;
  #closed = false;

  constructor(options: ParkedContainersOptions) {
    this.#options = options;
    this.#refillsPerSecond = options.refillsPerSecond;
  }

  get count(): number {
    return [...this.#shelves.values()].reduce((sum, { ready }) => sum + ready.length, 0);
  }

  /** One that waits. */
  get some(): Sandbox | undefined {
    for (const { ready } of this.#shelves.values()) if (ready[0]) return ready[0].sandbox;
    return undefined;
  }

  /** A class that is not among them is to have none. */
  setTargets(wishes: readonly ParkedWish[]): void {
    for (const shelf of this.#shelves.values()) Object.assign(shelf, { count: 0, reserved: 0 });
    for (const { trust, count, reserved } of wishes) {
      const key = trustKey(trust);
      const shelf = this.#shelves.get(key);
      if (shelf !== undefined) Object.assign(shelf, { count, reserved });
      else this.#shelves.set(key, { trust, count, reserved, ready: [], renewals: 0 });
    }
    for (const [key, { ready, count }] of this.#shelves) {
      for (const { sandbox } of ready.splice(count)) void sandbox.destroy();
      if (count === 0) this.#shelves.delete(key);
    }
    this.#scheduleRefill();
  }

  /** How many to make a second at most from now on; 0 for none. */
  setRate(perSecond: number): void {
    this.#refillsPerSecond = perSecond;
    this.#scheduleRefill();
  }

  /** The oldest one of its class that lives and that no other function has asked for. */
  take(fn: TrustClass & { parked: number }): ParkedContainer | undefined {
    const { ready, reserved } = this.#shelves.get(trustKey(fn)) ?? { ready: [], reserved: 0 };
    const leaving = Math.max(reserved - fn.parked, 0);
    let taken: ParkedContainer | undefined;
    while (ready.length > leaving && taken === undefined) {
      taken = ready.shift();
      if (taken?.sandbox.alive === false) taken = undefined;
    }
    this.#scheduleRefill();
    return taken;
  }

  /** Gives up what is parked of a class: it is to be made anew. */
  renew(key: string): void {
    const shelf = this.#shelves.get(key);
    if (shelf === undefined) return;
    shelf.renewals++;
    for (const { sandbox } of shelf.ready.splice(0)) void sandbox.destroy();
    this.#scheduleRefill();
  }

  /** While calls wait for a start, nothing is made ahead but what is reserved. */
  hold(held: boolean): void {
    this.#held = held;
    if (!held) this.#scheduleRefill();
  }

  /** Resolves when as many as wanted are ready, or one could not be made. */
  async fill(): Promise<void> {
    while (!this.#closed && this.#shortShelf() !== undefined) if (!(await this.#makeOne())) return;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#refilling;
    const all = [...this.#shelves.values()].flatMap(({ ready }) => ready.splice(0));
    await Promise.all(all.map(({ sandbox }) => sandbox.destroy()));
  }

  #shortShelf(): [key: string, shelf: Shelf] | undefined {
    for (const entry of this.#shelves) {
      const [, { ready, count, reserved }] = entry;
      if (ready.length < (this.#held ? Math.min(count, reserved) : count)) return entry;
    }
    return undefined;
  }

  #scheduleRefill(delayMs = 1000 / this.#refillsPerSecond): void {
    if (this.#timer !== undefined || this.#refilling !== undefined) return;
    if (this.#closed || this.#refillsPerSecond === 0) return;
    if (this.#shortShelf() === undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#refillsPerSecond === 0 || this.#shortShelf() === undefined) return;
      this.#refilling = this.#makeOne().then((made) => {
        this.#refilling = undefined;
        this.#scheduleRefill(made ? undefined : retryMs);
      });
    }, delayMs);
  }

  async #makeOne(): Promise<boolean> {
    const entry = this.#shortShelf();
    if (entry === undefined) return true;
    const [key, shelf] = entry;
    // The others come first next time: what cannot be made must not keep them waiting.
    this.#shelves.delete(key);
    this.#shelves.set(key, shelf);
    const { trust, renewals } = shelf;
    try {
      const parked = await this.#options.make(trust);
      const { sandbox } = parked;
      // One that dies while it waits must not be given away.
      void sandbox.ended.then(() => this.#forget(shelf, sandbox));
      const isWanted = !this.#closed && shelf.renewals === renewals && shelf.count > 0;
      if (isWanted) shelf.ready.push(parked);
      else await sandbox.destroy();
      return true;
    } catch (error) {
      this.#options.onError(`Cannot park a container: ${messageOf(error)}`);
      return false;
    }
  }

  #forget(shelf: Shelf, sandbox: Sandbox): void {
    const index = shelf.ready.findIndex((parked) => parked.sandbox === sandbox);
    if (index >= 0) shelf.ready.splice(index, 1);
    this.#scheduleRefill();
  }
}
