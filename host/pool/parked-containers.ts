/** Containers made ahead, waiting for any function. Each is given away once. */
import { messageOf } from '../base/errors.ts';
import type { Step } from '../base/channels.ts';
import type { Sandbox } from '../sandbox/sandbox.ts';

/** After one could not be made. */
const retryMs = 1000;

export interface ParkedContainersOptions {
  /** Resolves when the container waits for a function. */
  make: () => Promise<ParkedContainer>;
  /** At most this many are made a second, so that filling up never starves the calls. */
  refillsPerSecond: number;
  onError: (message: string) => void;
}

export interface ParkedContainer {
  sandbox: Sandbox;
  steps: Step[];
}

export class ParkedContainers {
  readonly #options: ParkedContainersOptions;
  readonly #ready: ParkedContainer[] = [];
  #target = 0;
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
    return this.#ready.length;
  }

  /** How many to keep ready. */
  setTarget(count: number): void {
    this.#target = count;
    for (const surplus of this.#ready.splice(count)) void surplus.sandbox.destroy();
    this.#scheduleRefill();
  }

  /** How many to make a second at most from now on; 0 for none. */
  setRate(perSecond: number): void {
    this.#refillsPerSecond = perSecond;
    this.#scheduleRefill();
  }

  /** The oldest one that lives, now the caller's. */
  take(): ParkedContainer | undefined {
    let taken = this.#ready.shift();
    while (taken !== undefined && !taken.sandbox.alive) taken = this.#ready.shift();
    this.#scheduleRefill();
    return taken;
  }

  /** While calls wait for a start, nothing is made ahead. */
  hold(held: boolean): void {
    this.#held = held;
    if (!held) this.#scheduleRefill();
  }

  /** Resolves when as many as wanted are ready, or one could not be made. */
  async fill(): Promise<void> {
    while (!this.#closed && this.#ready.length < this.#target) if (!(await this.#makeOne())) return;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#refilling;
    await Promise.all(this.#ready.splice(0).map(({ sandbox }) => sandbox.destroy()));
  }

  #scheduleRefill(delayMs = 1000 / this.#refillsPerSecond): void {
    if (this.#timer !== undefined || this.#refilling !== undefined) return;
    if (this.#closed || this.#held || this.#refillsPerSecond === 0) return;
    if (this.#ready.length >= this.#target) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#held) return;
      this.#refilling = this.#makeOne().then((made) => {
        this.#refilling = undefined;
        this.#scheduleRefill(made ? undefined : retryMs);
      });
    }, delayMs);
  }

  async #makeOne(): Promise<boolean> {
    try {
      const parked = await this.#options.make();
      const { sandbox } = parked;
      // One that dies while it waits must not be given away.
      void sandbox.ended.then(() => this.#forget(sandbox));
      if (this.#closed) await sandbox.destroy();
      else this.#ready.push(parked);
      return true;
    } catch (error) {
      this.#options.onError(`Cannot park a container: ${messageOf(error)}`);
      return false;
    }
  }

  #forget(sandbox: Sandbox): void {
    const index = this.#ready.findIndex((parked) => parked.sandbox === sandbox);
    if (index >= 0) this.#ready.splice(index, 1);
    this.#scheduleRefill();
  }
}
