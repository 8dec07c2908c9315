/**
 * What drivers of file systems with snapshots have in common: a root is a writable copy of its
 * layers, which are joined ahead. A write takes the blocks it changes, not the file; the file
 * system checks what it reads by checksums, and limits what a root takes. The price: roots share no
 * page cache, and a copy waits for the file system to write it down, so some are made ahead.
 */
import { chownSync, closeSync } from 'node:fs';
import { HatchError, messageOf } from '../base/errors.ts';
import { ReadyStock } from '../base/ready-stock.ts';
import { mountAttribute, setMountAttributes } from '../sys/mount.ts';
import { LayerStacks, type LayerStack, type StackMaker } from './layer-stacks.ts';
import { rootError } from './storage-driver.ts';
import type { PreparedLayers, RootRequest, StorageDriver, WritableRoot } from './storage-driver.ts';

const attributes = mountAttribute.noSuid | mountAttribute.noDev;

/** A copy, with its limit. */
export interface RootCopy {
  /** For this process, with owners as they are stored. */
  readonly path: string;
  /** Of its own, detached. Who has the copy closes it. */
  readonly mountFd: number;
}

/** What a file system has to offer. */
export interface SnapshotMaker<
  Stack extends { path: string },
  Copy extends RootCopy,
> extends StackMaker<Stack> {
  /** Holds up this thread until the file system has it. */
  copyNow(stack: Stack, sizeBytes: number): Copy;
  copyAhead(stack: Stack, sizeBytes: number): Promise<Copy>;
  /** Its `mountFd` is closed; waits for what else has it mounted. */
  destroyCopy(copy: Copy): Promise<void>;
  /** What earlier runs have left. */
  removeAll(): Promise<void>;
  /** After all copies and stacks. */
  close(): Promise<void>;
}

export interface SnapshotDriverOptions<Stack extends { path: string }, Copy extends RootCopy> {
  name: 'btrfs' | 'zfs';
  maker: SnapshotMaker<Stack, Copy>;
  /** What each root may take for itself, its metadata included. */
  sizeBytes: number;
  /** How many to keep ready for each function that has been started. */
  spareCount: number;
}

interface Prepared<Stack, Copy> {
  /** By callers of `prepare`; then nothing is made of it any more. */
  uses: number;
  /** By roots that are there, and one while there are uses. */
  holders: number;
  layers: LayerStack<Stack>;
  spares: ReadyStock<Copy>;
}

export class SnapshotDriver<
  Stack extends { path: string },
  Copy extends RootCopy,
> implements StorageDriver {
  readonly name: 'btrfs' | 'zfs';
  readonly mapsOwners = true;
  readonly readsLayers = false;
  readonly #options: SnapshotDriverOptions<Stack, Copy>;
  readonly #maker: SnapshotMaker<Stack, Copy>;
  readonly #stacks: LayerStacks<Stack>;
  /** By all layers, bottom first. */
  readonly #prepared = new Map<string, Prepared<Stack, Copy>>();
  readonly #roots = new Map<string, SnapshotRoot>();

  constructor(options: SnapshotDriverOptions<Stack, Copy>) {
    this.name = options.name;
    this.#options = options;
    this.#maker = options.maker;
    this.#stacks = new LayerStacks(options.maker);
  }

  async prepare(lowerDirectories: readonly string[]): Promise<PreparedLayers> {
    const key = lowerDirectories.join('\0');
    let layers: LayerStack<Stack>;
    try {
      layers = await this.#stacks.acquire(lowerDirectories);
    } catch (cause) {
      const message = `Cannot join ${lowerDirectories.length} layers: ${messageOf(cause)}`;
      throw new HatchError('host.start_failed', message, { cause });
    }
    const prepared = this.#prepared.get(key) ?? this.#add(key, layers);
    // Somebody else has prepared the same meanwhile.
    if (prepared.layers !== layers) layers.release();
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
      const copy = this.#take(prepared, request.sizeBytes);
      const root = this.#open(request, { copy, prepared });
      this.#roots.set(id, root);
      return root;
    } catch (error) {
      throw rootError(id, error);
    }
  }

  removeAll(): Promise<void> {
    return this.#maker.removeAll();
  }

  async close(): Promise<void> {
    await Promise.all([...this.#roots.values()].map((root) => root.destroy()));
    for (const [key, prepared] of this.#prepared) {
      prepared.uses = 1;
      await this.#release(key, prepared);
    }
    await this.#stacks.close();
    await this.#maker.close();
  }

  #add(key: string, layers: LayerStack<Stack>): Prepared<Stack, Copy> {
    const { spareCount, sizeBytes } = this.#options;
    const spares = new ReadyStock<Copy>({
      name: 'snapshots',
      count: spareCount,
      make: () => this.#maker.copyAhead(layers.stack, sizeBytes),
      discard: (copy) => this.#destroy(copy),
    });
    const prepared = { uses: 0, holders: 1, layers, spares };
    this.#prepared.set(key, prepared);
    return prepared;
  }

  async #release(key: string, prepared: Prepared<Stack, Copy>): Promise<void> {
    if (--prepared.uses !== 0) return;
    this.#prepared.delete(key);
    await prepared.spares.close();
    letGo(prepared);
  }

  #take({ spares, layers }: Prepared<Stack, Copy>, sizeBytes: number | undefined): Copy {
    const spare = sizeBytes === undefined ? spares.take() : undefined;
    return spare ?? this.#maker.copyNow(layers.stack, sizeBytes ?? this.#options.sizeBytes);
  }

  #open(
    request: RootRequest,
    { copy, prepared }: { copy: Copy; prepared: Prepared<Stack, Copy> },
  ): SnapshotRoot {
    const { userNamespaceFd } = request;
    try {
      // Mapped, the root's owner is 0, as it is stored.
      if (userNamespaceFd === undefined) chownSync(copy.path, request.ownerUid, request.ownerGid);
      setMountAttributes(copy.mountFd, {
        attributes,
        ...(userNamespaceFd === undefined ? {} : { userNamespaceFd }),
      });
    } catch (error) {
      // What is left of it is removed by `removeAll`; the reason is in `error`.
      this.#destroy(copy).catch(() => undefined);
      throw error;
    }
    prepared.holders++;
    const destroy = async (): Promise<void> => {
      try {
        await this.#maker.destroyCopy(copy);
      } finally {
        this.#roots.delete(request.id);
        letGo(prepared);
      }
    };
    return new SnapshotRoot({ request, copy, destroy });
  }

  #destroy(copy: Copy): Promise<void> {
    closeSync(copy.mountFd);
    return this.#maker.destroyCopy(copy);
  }
}

class SnapshotRoot implements WritableRoot {
  readonly id: string;
  readonly lowerDirectories: readonly string[];
  readonly mountFd: number;
  readonly copiesUp = false;
  readonly #path: string;
  readonly #destroy: () => Promise<void>;
  #mountOpen = true;
  #destroyed: Promise<void> | undefined;

  constructor(options: { request: RootRequest; copy: RootCopy; destroy: () => Promise<void> }) {
    this.id = options.request.id;
    this.lowerDirectories = options.request.lowerDirectories;
    this.mountFd = options.copy.mountFd;
    this.#path = options.copy.path;
    this.#destroy = options.destroy;
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
    this.#destroyed ??= this.#destroy();
    return this.#destroyed;
  }
}

/** The stack goes with the last that was copied from it. */
function letGo(prepared: { holders: number; layers: { release(): void } }): void {
  if (--prepared.holders === 0) prepared.layers.release();
}
