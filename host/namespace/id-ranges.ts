/**
 * Ranges of host user ids, one per container: ids 0..65535 inside are `firstHostId`.. outside.
 * Never shared by two live containers. A range, once used, keeps its user namespace and its view of
 * the layers (one idmapped mount of their common parent: mapping each layer by itself is slow at
 * scale).
 */
import { closeSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { HatchError } from '../base/errors.ts';
import { ReadyStock } from '../base/ready-stock.ts';
import { isErrno } from '../sys/errors.ts';
import {
  attachMount,
  cloneMount,
  detachMount,
  mountAttribute,
  setMountAttributes,
} from '../sys/mount.ts';
import { makeUserNamespace } from '../sys/user-namespace.ts';

export const idsPerRange = 65_536;

export interface IdRange {
  readonly index: number;
  /** The host's uid and gid for root of the container. */
  readonly firstHostId: number;
  /** Joined by the container's processes, as their last namespace. Stays open. */
  readonly userNamespaceFd: number;
  /** The parent of all layers, its files owned as the range's root sees them. */
  readonly layersDirectory: string;
}

export interface IdRangesOptions {
  firstHostId: number;
  rangesMax: number;
  /** The parent directory of the unpacked layers, owned by root of the host. */
  layersDirectory: string;
  /** A directory of ours for the mounts, one below it per range, in this mount namespace. */
  mountDirectory: string;
  /** How many new ones to keep ready, besides those that were given back. */
  readyCount: number;
}

export class IdRanges {
  readonly #options: IdRangesOptions;
  readonly #free: IdRange[] = [];
  readonly #stock: ReadyStock<IdRange>;
  #made = 0;
  #failure: unknown;

  constructor(options: IdRangesOptions) {
    this.#options = options;
    this.#stock = new ReadyStock({
      name: 'id ranges',
      count: options.readyCount,
      make: () => this.#make(),
      discard: giveUp,
      onError: (error) => (this.#failure = error),
    });
  }

  /** The parent of all layers as they are stored. */
  get layersDirectory(): string {
    return this.#options.layersDirectory;
  }

  /** Resolves when the new ones are ready. Rejects when not even one could be made. */
  async fill(): Promise<void> {
    await this.#stock.fill();
    if (this.#made === 0 && this.#failure !== undefined) throw this.#failure;
  }

  /** The most recently released range, else a new one. Throws `host.busy` at the limit. */
  acquire(): IdRange {
    return this.#free.pop() ?? this.#stock.take() ?? this.#make();
  }

  /** Only once no process and no file of the container is left. */
  release(range: IdRange): void {
    this.#free.push(range);
  }

  /** Gives up every namespace and mount: no container may be left. */
  async close(): Promise<void> {
    await this.#stock.close();
    this.#free.splice(0).forEach(giveUp);
  }

  #make(): IdRange {
    const { rangesMax } = this.#options;
    if (this.#made >= rangesMax)
      throw new HatchError(
        'host.busy',
        `All ${rangesMax} ranges of user ids are in use: raise uidRanges or try again later`,
      );
    const range = this.#open(this.#made);
    this.#made++;
    return range;
  }

  #open(index: number): IdRange {
    const firstHostId = this.#options.firstHostId + index * idsPerRange;
    const layersDirectory = join(this.#options.mountDirectory, String(index));
    mkdirSync(layersDirectory, { recursive: true, mode: 0o700 });
    const userNamespaceFd = makeUserNamespace({ firstHostId, count: idsPerRange });
    try {
      const mountFd = cloneMount({ path: this.#options.layersDirectory, recursive: false });
      try {
        mapIds(mountFd, userNamespaceFd, this.#options.layersDirectory);
        // Attached, since overlayfs refuses a directory below a detached idmapped mount.
        attachMount(mountFd, layersDirectory);
      } finally {
        closeSync(mountFd);
      }
    } catch (error) {
      closeSync(userNamespaceFd);
      throw error;
    }
    return { index, firstHostId, userNamespaceFd, layersDirectory };
  }
}

function mapIds(mountFd: number, userNamespaceFd: number, directory: string): void {
  try {
    setMountAttributes(mountFd, { attributes: mountAttribute.readOnly, userNamespaceFd });
  } catch (cause) {
    if (!isErrno(cause, 'EINVAL')) throw cause;
    throw new HatchError(
      'host.unsupported',
      `Cannot map user ids on "${directory}": its file system takes no idmapped mounts, as ` +
        'overlayfs does not; put the state directory on ext4, xfs or btrfs',
      { cause },
    );
  }
}

function giveUp({ userNamespaceFd, layersDirectory }: IdRange): void {
  closeSync(userNamespaceFd);
  detachMount(layersDirectory);
}
