/**
 * Layers joined ahead, as read-only btrfs subvolumes: each is a snapshot of the stack without its
 * uppermost layer, with that layer applied. So what functions have in common at the bottom, as
 * their base image, is there once. Files are clones of the layer store's.
 */
import { chmodSync, closeSync, constants, openSync } from 'node:fs';
import { join } from 'node:path';
import {
  createSubvolume,
  destroySubvolume,
  makeSubvolumeReadOnly,
  snapshotInBackground,
} from '../sys/btrfs.ts';
import { applyLayer } from './apply-layer.ts';

export interface LayerStack {
  /** Of the subvolume; open until the stack is released. */
  readonly fd: number;
  /** Call it once. */
  release(): void;
}

interface Entry {
  name: string;
  uses: number;
  stack: Promise<{ fd: number; below: LayerStack | undefined }>;
}

export class LayerStacks {
  readonly #path: string;
  readonly #directoryFd: number;
  readonly #namePrefix: string;
  /** By all layers of the stack, bottom first. */
  readonly #entries = new Map<string, Entry>();
  readonly #removals = new Set<Promise<void>>();
  #sequence = 0;

  /** `path` is a directory on btrfs; names of `namePrefix` in it are ours. */
  constructor(options: { path: string; namePrefix: string }) {
    this.#path = options.path;
    this.#namePrefix = options.namePrefix;
    this.#directoryFd = openSync(options.path, constants.O_DIRECTORY);
  }

  /** Makes what is missing; at the same time once. Bottom first; at least one. */
  async acquire(layers: readonly string[]): Promise<LayerStack> {
    const key = layers.join('\0');
    const entry = this.#entries.get(key) ?? this.#add(key, layers);
    entry.uses++;
    let released = false;
    const release = (): void => {
      if (!released && --entry.uses === 0) this.#remove(key, entry);
      released = true;
    };
    try {
      const { fd } = await entry.stack;
      return { fd, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  /** All are released by now; resolves when none is left on the disk. */
  async close(): Promise<void> {
    while (this.#removals.size > 0) await Promise.all(this.#removals);
    closeSync(this.#directoryFd);
  }

  #add(key: string, layers: readonly string[]): Entry {
    const name = `${this.#namePrefix}${this.#sequence++}`;
    const entry = { name, uses: 0, stack: this.#make(name, layers) };
    this.#entries.set(key, entry);
    return entry;
  }

  async #make(
    name: string,
    layers: readonly string[],
  ): Promise<{ fd: number; below: LayerStack | undefined }> {
    const place = { directoryFd: this.#directoryFd, name };
    const top = layers.at(-1) ?? '';
    const below = layers.length > 1 ? await this.acquire(layers.slice(0, -1)) : undefined;
    let fd: number | undefined;
    try {
      if (below === undefined) createSubvolume(place);
      else await snapshotInBackground(below.fd, place);
      const path = join(this.#path, name);
      fd = openSync(path, constants.O_DIRECTORY);
      await applyLayer(top, path);
      chmodSync(path, 0o755);
      makeSubvolumeReadOnly(fd);
      return { fd, below };
    } catch (error) {
      below?.release();
      if (fd !== undefined) {
        closeSync(fd);
        await destroySubvolume(place);
      }
      throw error;
    }
  }

  #remove(key: string, entry: Entry): void {
    this.#entries.delete(key);
    const removal = entry.stack
      .then(async ({ fd, below }) => {
        closeSync(fd);
        await destroySubvolume({ directoryFd: this.#directoryFd, name: entry.name });
        below?.release();
      })
      // It never came to be, or stays on the disk until the next run removes it.
      .catch(() => undefined)
      .finally(() => this.#removals.delete(removal));
    this.#removals.add(removal);
  }
}
