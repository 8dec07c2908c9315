/** Groups made ahead, all with the same limits: making one is a tenth of a container's start. */
import { ReadyStock } from '../base/ready-stock.ts';
import type { Cgroup, CgroupDriver, CgroupLimits } from './cgroup.ts';

export interface ReadyCgroupsOptions {
  driver: CgroupDriver;
  /** In force until the taker sets others. */
  limits: CgroupLimits;
  readyCount: number;
  /** A name for the next group, never given out before. */
  nextName: () => string;
}

export class ReadyCgroups {
  readonly #make: () => Cgroup;
  readonly #stock: ReadyStock<Cgroup>;

  constructor({ driver, limits, readyCount, nextName }: ReadyCgroupsOptions) {
    this.#make = () => driver.create(nextName(), limits);
    this.#stock = new ReadyStock({
      name: 'cgroups',
      count: readyCount,
      make: this.#make,
      discard: async (cgroup) => void (await cgroup.remove()),
    });
  }

  /** Now the caller's, empty and with its join descriptors open; made on the spot when none is. */
  take(): Cgroup {
    return this.#stock.take() ?? this.#make();
  }

  fill(): Promise<void> {
    return this.#stock.fill();
  }

  close(): Promise<void> {
    return this.#stock.close();
  }
}
