/** The drivers that this host can offer, and which of them a function gets. */
import { join } from 'node:path';
import { HatchError, messageOf } from '../base/errors.ts';
import { isOnBtrfs } from '../sys/btrfs.ts';
import { isOnZfs } from '../sys/zfs.ts';
import { openBtrfs } from './btrfs.ts';
import type { OverlayDriver } from './overlay.ts';
import type { StorageDriver, StorageName } from './storage-driver.ts';
import { openZfs } from './zfs.ts';

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

interface Offer {
  drivers: ReadonlyMap<StorageName, StorageDriver>;
  /** Why a driver that fits the file system is not among them. */
  refusals: ReadonlyMap<StorageName, string>;
}

/** Snapshots for each function that has been started: as many as usually start at once. */
const spareCount = 2;

export class StorageDrivers {
  readonly #offer: Offer;
  readonly #preferred: StorageDriver;
  readonly #stateDirectory: string;

  private constructor(offer: Offer, options: StorageDriversOptions) {
    this.#offer = offer;
    this.#stateDirectory = options.stateDirectory;
    const best = this.names.find((name) => name !== 'overlay');
    this.#preferred = this.of(options.preferred ?? best ?? 'overlay');
  }

  /**
   * Removes what an earlier run left behind.
   *
   * @throws HatchError `host.unsupported` when the preferred one cannot be offered
   */
  static async open(options: StorageDriversOptions): Promise<StorageDrivers> {
    const { overlay, stateDirectory, rootBytesMax: sizeBytes } = options;
    const drivers = new Map<StorageName, StorageDriver>([['overlay', overlay]]);
    const refusals = new Map<StorageName, string>();
    const order = (name: string) => ({
      directory: join(stateDirectory, name),
      sizeBytes,
      spareCount,
    });
    if (isOnBtrfs(stateDirectory)) drivers.set('btrfs', openBtrfs(order('btrfs')));
    if (isOnZfs(stateDirectory)) {
      try {
        drivers.set('zfs', await openZfs(order('zfs')));
      } catch (error) {
        // Of many releases; with an older one, or without its library, the others do.
        refusals.set('zfs', messageOf(error));
      }
    }
    for (const driver of drivers.values()) await driver.removeAll();
    return new StorageDrivers({ drivers, refusals }, options);
  }

  /** Of functions that name none. */
  get preferred(): StorageName {
    return this.#preferred.name;
  }

  get names(): StorageName[] {
    return [...this.#offer.drivers.keys()];
  }

  /** @throws HatchError `host.unsupported` when this host does not have it */
  of(name: StorageName | undefined): StorageDriver {
    const driver = name === undefined ? this.#preferred : this.#offer.drivers.get(name);
    if (driver !== undefined) return driver;
    const reason =
      this.#offer.refusals.get(name ?? 'overlay') ??
      `the state directory "${this.#stateDirectory}" is not on ${name}; put it there ` +
        '(--state-directory)';
    throw new HatchError(
      'host.unsupported',
      `Cannot offer storage "${name}": ${reason}, or choose of ${this.names.join(', ')}`,
    );
  }

  /** After the last root is destroyed. */
  async close(): Promise<void> {
    for (const driver of this.#offer.drivers.values()) await driver.close();
  }
}
