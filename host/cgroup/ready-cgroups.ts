/** Groups made ahead, all with the same limits: making one is a tenth of a container's start. */
import type { Cgroup, CgroupDriver, CgroupLimits } from './cgroup.ts';

export interface ReadyCgroupsOptions {
  driver: CgroupDriver;
  /** In force until the taker sets others. */
  limits: CgroupLimits;
  readyCount: number;
  /** A name for the next group, never given out before. */
  nextName: () => string;
}

/** A start is over by then; the next one is made in a turn of its own. */
const refillDelayMs = 20;

export class ReadyCgroups {
  readonly #options: ReadyCgroupsOptions;
  readonly #ready: Cgroup[] = [];
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: ReadyCgroupsOptions) {
    this.#options = options;
    this.#refillLater();
  }

  /** Now the caller's, empty and with its join descriptors open; made on the spot when none is. */
  take(): Cgroup {
    const taken = this.#ready.shift() ?? this.#make();
    this.#refillLater();
    return taken;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await Promise.all(this.#ready.splice(0).map((cgroup) => cgroup.remove()));
  }

  #make(): Cgroup {
    const { driver, nextName, limits } = this.#options;
    return driver.create(nextName(), limits);
  }

  #refillLater(): void {
    if (this.#closed || this.#ready.length >= this.#options.readyCount) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      try {
        this.#ready.push(this.#make());
      } catch {
        // The next taker makes its own, and is told what is wrong.
        return;
      }
      this.#refillLater();
    }, refillDelayMs);
  }
}
