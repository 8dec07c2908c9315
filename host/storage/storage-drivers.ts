/** The drivers that this host can offer, and which of them a function gets. */
import { join } from 'node:path';
import { HatchError } from '../base/errors.ts';
import { isOnBtrfs } from '../sys/btrfs.ts';
import { BtrfsDriver } from './btrfs.ts';
import type { OverlayDriver } from './overlay.ts';
import type { StorageDriver, StorageName } from './storage-driver.ts';

export interface StorageDriversOptions {
  /** Always there. */
  overlay: OverlayDriver;
  /** What its file system offers is what functions can ask for. */
  stateDirectory: string;
  /** What a root may take on disk. */
  rootBytesMax: number;
  /** For functions that name none; by default what writes least on that file system. */
  preferred?: StorageName | undefined;
}

/** Snapshots for each function that has been started: as many as usually start at once. */
const spareCount = 2;

export class StorageDrivers {
  readonly #drivers: ReadonlyMap<StorageName, StorageDriver>;
  readonly #preferred: StorageDriver;
  readonly #stateDirectory: string;

  private constructor(
    drivers: ReadonlyMap<StorageName, StorageDriver>,
    options: StorageDriversOptions,
  ) {
    this.#drivers = drivers;
    this.#stateDirectory = options.stateDirectory;
    const best = drivers.has('btrfs') ? 'btrfs' : 'overlay';
    this.#preferred = this.of(options.preferred ?? best);
  }

  /**
   * Removes what an earlier run left behind.
   *
   * @throws HatchError `host.unsupported` when the preferred one cannot be offered
   */
  static async open(options: StorageDriversOptions): Promise<StorageDrivers> {
    const { overlay, stateDirectory, rootBytesMax } = options;
    const drivers = new Map<StorageName, StorageDriver>([['overlay', overlay]]);
    if (isOnBtrfs(stateDirectory)) {
      const directory = join(stateDirectory, 'btrfs');
      drivers.set('btrfs', BtrfsDriver.open({ directory, sizeBytes: rootBytesMax, spareCount }));
    }
    for (const driver of drivers.values()) await driver.removeAll();
    return new StorageDrivers(drivers, options);
  }

  /** Of functions that name none. */
  get preferred(): StorageName {
    return this.#preferred.name;
  }

  get names(): StorageName[] {
    return [...this.#drivers.keys()];
  }

  /** @throws HatchError `host.unsupported` when this host does not have it */
  of(name: StorageName | undefined): StorageDriver {
    const driver = name === undefined ? this.#preferred : this.#drivers.get(name);
    if (driver !== undefined) return driver;
    throw new HatchError(
      'host.unsupported',
      `Cannot offer storage "${name}": the state directory "${this.#stateDirectory}" is not on ` +
        `${name}; put it there (--state-directory), or choose of ${this.names.join(', ')}`,
    );
  }

  /** After the last root is destroyed. */
  async close(): Promise<void> {
    for (const driver of this.#drivers.values()) await driver.close();
  }
}
