/**
 * The btrfs driver: a root is a writable snapshot of its layers, which are joined ahead. A write
 * takes the blocks it changes, not the file; the file system checks what it reads by checksums; and
 * a quota limits what a root takes. The price: roots share no page cache, and a snapshot waits for
 * a commit of the file system, so some are made ahead.
 */
import { chownSync, closeSync, constants, mkdirSync, openSync, readdirSync, rmSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { HatchError, messageOf } from '../base/errors.ts';
import { ReadyStock } from '../base/ready-stock.ts';
import {
  destroySubvolume,
  enableQuotas,
  isOnBtrfs,
  limitSubvolume,
  removeQuotaGroup,
  snapshotInBackground,
  snapshotSubvolume,
  subvolumeId,
} from '../sys/btrfs.ts';
import { cloneMount, mountAttribute, setMountAttributes } from '../sys/mount.ts';
import { LayerStacks, type LayerStack } from './layer-stacks.ts';
import { rootError } from './storage-driver.ts';
import type { PreparedLayers, RootRequest, StorageDriver, WritableRoot } from './storage-driver.ts';

const attributes = mountAttribute.noSuid | mountAttribute.noDev;

export interface BtrfsOptions {
  /** Made when it is missing; on btrfs. */
  directory: string;
  /** What each root may take for itself, its metadata included. */
  sizeBytes: number;
  /** How many to keep ready for each function that has been started. */
  spareCount?: number;
}

interface Prepared {
  uses: number;
  stack: LayerStack;
  /** Names of snapshots in `roots`. */
  spares: ReadyStock<string>;
}

export class BtrfsDriver implements StorageDriver {
  readonly name = 'btrfs';
  readonly mapsOwners = true;
  readonly readsLayers = false;
  readonly #options: Required<BtrfsOptions>;
  readonly #stacksPath: string;
  readonly #rootsPath: string;
  readonly #rootsFd: number;
  readonly #run = `${randomBytes(4).toString('hex')}-`;
  readonly #stacks: LayerStacks;
  /** By all layers, bottom first. */
  readonly #prepared = new Map<string, Prepared>();
  readonly #roots = new Map<string, BtrfsRoot>();
  #sequence = 0;

  private constructor(options: BtrfsOptions) {
    this.#options = { spareCount: 0, ...options };
    this.#stacksPath = join(options.directory, 'stacks');
    this.#rootsPath = join(options.directory, 'roots');
    for (const path of [this.#stacksPath, this.#rootsPath])
      mkdirSync(path, { recursive: true, mode: 0o700 });
    this.#rootsFd = openSync(this.#rootsPath, constants.O_DIRECTORY);
    this.#stacks = new LayerStacks({ path: this.#stacksPath, namePrefix: this.#run });
  }

  /**
   * Switches the quotas of the file system on.
   *
   * @throws HatchError `host.unsupported` when the directory is not on btrfs, or cannot have quotas
   */
  static open(options: BtrfsOptions): BtrfsDriver {
    mkdirSync(options.directory, { recursive: true, mode: 0o700 });
    if (!isOnBtrfs(options.directory))
      throw new HatchError(
        'host.unsupported',
        `Cannot use the storage driver btrfs: "${options.directory}" is not on btrfs`,
      );
    const fd = openSync(options.directory, constants.O_DIRECTORY);
    try {
      enableQuotas(fd);
    } catch (cause) {
      throw new HatchError(
        'host.unsupported',
        `Cannot limit what a root takes on btrfs: ${messageOf(cause)}`,
        { cause },
      );
    } finally {
      closeSync(fd);
    }
    return new BtrfsDriver(options);
  }

  async prepare(lowerDirectories: readonly string[]): Promise<PreparedLayers> {
    const key = lowerDirectories.join('\0');
    let stack: LayerStack;
    try {
      stack = await this.#stacks.acquire(lowerDirectories);
    } catch (cause) {
      const message = `Cannot join ${lowerDirectories.length} layers: ${messageOf(cause)}`;
      throw new HatchError('host.start_failed', message, { cause });
    }
    const prepared = this.#prepared.get(key) ?? this.#add(key, stack);
    // Somebody else has prepared the same meanwhile.
    if (prepared.stack !== stack) stack.release();
    prepared.uses++;
    // What cannot be removed is left to `removeAll` of the next run.
    return { release: () => void this.#release(key, prepared).catch(() => undefined) };
  }

  createRoot(request: RootRequest): WritableRoot {
    const { id, lowerDirectories } = request;
    if (this.#roots.has(id))
      throw new HatchError('internal.bug', `Cannot create root "${id}": there is one already`);
    const prepared = this.#prepared.get(lowerDirectories.join('\0'));
    if (prepared === undefined) throw rootError(id, new Error('its layers are not prepared'));
    try {
      const name = prepared.spares.take() ?? this.#snapshotNow(prepared.stack);
      const root = this.#open(request, name);
      this.#roots.set(id, root);
      return root;
    } catch (error) {
      throw rootError(id, error);
    }
  }

  async removeAll(): Promise<void> {
    for (const path of [this.#rootsPath, this.#stacksPath]) {
      for (const name of readdirSync(path)) {
        if (!name.startsWith(this.#run)) await removeLeftover(path, name);
      }
    }
  }

  async close(): Promise<void> {
    await Promise.all([...this.#roots.values()].map((root) => root.destroy()));
    for (const [key, prepared] of this.#prepared) {
      prepared.uses = 1;
      await this.#release(key, prepared);
    }
    await this.#stacks.close();
    closeSync(this.#rootsFd);
  }

  #add(key: string, stack: LayerStack): Prepared {
    const spares = new ReadyStock<string>({
      count: this.#options.spareCount,
      make: () => this.#snapshotAhead(stack),
      discard: (name) => this.#destroy(name),
    });
    const prepared = { uses: 0, stack, spares };
    this.#prepared.set(key, prepared);
    return prepared;
  }

  async #release(key: string, prepared: Prepared): Promise<void> {
    if (--prepared.uses !== 0) return;
    this.#prepared.delete(key);
    await prepared.spares.close();
    prepared.stack.release();
  }

  async #snapshotAhead(stack: LayerStack): Promise<string> {
    const name = this.#nextName();
    await snapshotInBackground(stack.fd, { directoryFd: this.#rootsFd, name });
    return name;
  }

  #snapshotNow(stack: LayerStack): string {
    const name = this.#nextName();
    snapshotSubvolume(stack.fd, { directoryFd: this.#rootsFd, name });
    return name;
  }

  #nextName(): string {
    return `${this.#run}${this.#sequence++}`;
  }

  #open(request: RootRequest, name: string): BtrfsRoot {
    const { userNamespaceFd, sizeBytes = this.#options.sizeBytes } = request;
    const path = join(this.#rootsPath, name);
    let mountFd: number | undefined;
    try {
      const fd = openSync(path, constants.O_DIRECTORY);
      try {
        limitSubvolume(fd, sizeBytes);
      } finally {
        closeSync(fd);
      }
      // Mapped, the root's owner is 0, as it is stored.
      if (userNamespaceFd === undefined) chownSync(path, request.ownerUid, request.ownerGid);
      mountFd = cloneMount({ path, recursive: false });
      setMountAttributes(mountFd, {
        attributes,
        ...(userNamespaceFd === undefined ? {} : { userNamespaceFd }),
      });
      const destroy = (): Promise<void> => this.#destroy(name);
      const forget = (): boolean => this.#roots.delete(request.id);
      return new BtrfsRoot({ request, path, mountFd, destroy, forget });
    } catch (error) {
      if (mountFd !== undefined) closeSync(mountFd);
      // What is left of it is removed by `removeAll`; the reason is in `error`.
      this.#destroy(name).catch(() => undefined);
      throw error;
    }
  }

  #destroy(name: string): Promise<void> {
    return destroyLimited({ directoryFd: this.#rootsFd, path: this.#rootsPath, name });
  }
}

class BtrfsRoot implements WritableRoot {
  readonly id: string;
  readonly lowerDirectories: readonly string[];
  readonly mountFd: number;
  readonly copiesUp = false;
  readonly #path: string;
  readonly #destroy: () => Promise<void>;
  readonly #forget: () => void;
  #mountOpen = true;
  #destroyed: Promise<void> | undefined;

  constructor(options: {
    request: RootRequest;
    path: string;
    mountFd: number;
    destroy: () => Promise<void>;
    forget: () => void;
  }) {
    this.id = options.request.id;
    this.lowerDirectories = options.request.lowerDirectories;
    this.mountFd = options.mountFd;
    this.#path = options.path;
    this.#destroy = options.destroy;
    this.#forget = options.forget;
  }

  get upperDirectory(): string {
    if (this.#destroyed !== undefined)
      throw new HatchError('internal.bug', `Cannot look into root "${this.id}": it is destroyed`);
    return this.#path;
  }

  closeMount(): void {
    if (!this.#mountOpen) return;
    this.#mountOpen = false;
    closeSync(this.mountFd);
  }

  destroy(): Promise<void> {
    this.closeMount();
    this.#destroyed ??= this.#destroy().finally(this.#forget);
    return this.#destroyed;
  }
}

/** Its limit goes with it. */
async function destroyLimited(subvolume: {
  directoryFd: number;
  path: string;
  name: string;
}): Promise<void> {
  const fd = openSync(join(subvolume.path, subvolume.name), constants.O_DIRECTORY);
  let id: bigint;
  try {
    id = subvolumeId(fd);
  } finally {
    closeSync(fd);
  }
  await destroySubvolume(subvolume);
  removeQuotaGroup(subvolume.directoryFd, id);
}

/** Of a run that was killed. */
async function removeLeftover(path: string, name: string): Promise<void> {
  const directoryFd = openSync(path, constants.O_DIRECTORY);
  try {
    await destroyLimited({ directoryFd, path, name });
  } catch {
    // Not a subvolume: nothing that we have made.
    rmSync(join(path, name), { recursive: true, force: true });
  } finally {
    closeSync(directoryFd);
  }
}
