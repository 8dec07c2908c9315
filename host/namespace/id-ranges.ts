/**
 * Ranges of host user ids, one per container: ids 0..65535 inside are `firstHostId`.. outside.
 * Never shared by two live containers. A range, once used, keeps its user namespace and its view of
 * the layers (one idmapped mount of their common parent: mapping each layer by itself is slow at
 * scale).
 */
import { closeSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { HatchError } from '../base/errors.ts';
import {
  attachMount,
  cloneMount,
  detachMount,
  mountAttribute,
  setMountAttributes,
} from '../sys/mount.ts';

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
  makeUserNamespace: (range: { firstHostId: number; count: number }) => Promise<number>;
}

export class IdRanges {
  readonly #options: IdRangesOptions;
  readonly #free: IdRange[] = [];
  /** Of ranges that could not be made. */
  readonly #unmade: number[] = [];
  #made = 0;

  constructor(options: IdRangesOptions) {
    this.#options = options;
  }

  /** The most recently released range, else a new one. Rejects with `host.busy` at the limit. */
  async acquire(): Promise<IdRange> {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    const unmade = this.#unmade.pop();
    if (unmade !== undefined) return this.#make(unmade);
    if (this.#made >= this.#options.rangesMax)
      throw new HatchError(
        'host.busy',
        `All ${this.#made} ranges of user ids are in use: raise uidRanges or try again later`,
      );
    return this.#make(this.#made++);
  }

  /** Only once no process and no file of the container is left. */
  release(range: IdRange): void {
    this.#free.push(range);
  }

  /** Gives up every namespace and mount: no container may be left. */
  close(): void {
    for (const { userNamespaceFd, layersDirectory } of this.#free.splice(0)) {
      closeSync(userNamespaceFd);
      detachMount(layersDirectory);
    }
  }

  async #make(index: number): Promise<IdRange> {
    try {
      return await this.#open(index);
    } catch (error) {
      this.#unmade.push(index);
      throw error;
    }
  }

  async #open(index: number): Promise<IdRange> {
    const firstHostId = this.#options.firstHostId + index * idsPerRange;
    const userNamespaceFd = await this.#options.makeUserNamespace({
      firstHostId,
      count: idsPerRange,
    });
    const layersDirectory = join(this.#options.mountDirectory, String(index));
    mkdirSync(layersDirectory, { recursive: true });
    const mountFd = cloneMount({ path: this.#options.layersDirectory, recursive: false });
    try {
      setMountAttributes(mountFd, { attributes: mountAttribute.readOnly, userNamespaceFd });
      // Attached, since overlayfs refuses a directory below a detached idmapped mount.
      attachMount(mountFd, layersDirectory);
    } catch (error) {
      closeSync(userNamespaceFd);
      throw error;
    } finally {
      closeSync(mountFd);
    }
    return { index, firstHostId, userNamespaceFd, layersDirectory };
  }
}
