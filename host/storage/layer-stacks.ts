/**
 * Layers joined ahead: each stack is a copy of the one without its uppermost layer, with that layer
 * applied. So what functions have in common at the bottom, as their base image, is there once.
 * Files are clones of the layer store's where the file system can.
 */
import { chmodSync } from 'node:fs';
import { applyLayer } from './apply-layer.ts';

/** What a file system has to offer for it. */
export interface StackMaker<Stack extends { path: string }> {
  /** An empty one, or a writable copy of a sealed one, which shares all blocks with that. */
  makeStack(below: Stack | undefined): Promise<Stack>;
  /** It is complete: nobody writes to `path` any more. */
  sealStack(stack: Stack): Promise<void>;
  /** After all copies, sealed or not. */
  destroyStack(stack: Stack): Promise<void>;
}

export interface LayerStack<Stack> {
  readonly stack: Stack;
  /** Call it once. */
  release(): void;
}

interface Entry<Stack> {
  uses: number;
  made: Promise<{ stack: Stack; below: LayerStack<Stack> | undefined }>;
}

export class LayerStacks<Stack extends { path: string }> {
  readonly #maker: StackMaker<Stack>;
  /** By all layers of the stack, bottom first. */
  readonly #entries = new Map<string, Entry<Stack>>();
  readonly #removals = new Set<Promise<void>>();

  constructor(maker: StackMaker<Stack>) {
    this.#maker = maker;
  }

  /** Makes what is missing; at the same time once. Bottom first; at least one. */
  async acquire(layers: readonly string[]): Promise<LayerStack<Stack>> {
    const key = layers.join('\0');
    const entry = this.#entries.get(key) ?? this.#add(key, layers);
    entry.uses++;
    let released = false;
    const release = (): void => {
      if (!released && --entry.uses === 0) this.#remove(key, entry);
      released = true;
    };
    try {
      const { stack } = await entry.made;
      return { stack, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  /** All are released by now; resolves when none is left on the disk. */
  async close(): Promise<void> {
    while (this.#removals.size > 0) await Promise.all(this.#removals);
  }

  #add(key: string, layers: readonly string[]): Entry<Stack> {
    const entry = { uses: 0, made: this.#make(layers) };
    this.#entries.set(key, entry);
    return entry;
  }

  async #make(layers: readonly string[]): Promise<Awaited<Entry<Stack>['made']>> {
    const top = layers.at(-1) ?? '';
    const below = layers.length > 1 ? await this.acquire(layers.slice(0, -1)) : undefined;
    let stack: Stack | undefined;
    try {
      stack = await this.#maker.makeStack(below?.stack);
      await applyLayer(top, stack.path);
      chmodSync(stack.path, 0o755);
      await this.#maker.sealStack(stack);
      return { stack, below };
    } catch (error) {
      if (stack !== undefined) await this.#maker.destroyStack(stack);
      below?.release();
      throw error;
    }
  }

  #remove(key: string, entry: Entry<Stack>): void {
    this.#entries.delete(key);
    const removal = entry.made
      .then(async ({ stack, below }) => {
        await this.#maker.destroyStack(stack);
        below?.release();
      })
      // It never came to be, or stays on the disk until the next run removes it.
      .catch(() => undefined)
      .finally(() => this.#removals.delete(removal));
    this.#removals.add(removal);
  }
}
