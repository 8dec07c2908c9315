/**
 * Which layers stay on disk: least recently used first out, by bytes. A layer that is pinned, or
 * leased because it is mounted, is never evicted.
 *
 * lru-cache cannot refuse an eviction, so it holds only the layers that may go, in their order;
 * held ones live beside it and count against the same capacity.
 */
import { LRUCache } from 'lru-cache';
import { HatchError } from '../base/errors.ts';
import type { Digest } from './digest.ts';

export interface CachedLayer {
  chainId: Digest;
  sizeBytes: number;
}

/** Keeps layers from eviction until released; releasing twice does nothing. */
export interface Lease<L extends CachedLayer> extends Disposable {
  /** In the order asked for. */
  readonly layers: readonly L[];
  release(): void;
}

interface Slot<L> {
  layer: L;
  leases: number;
  pinned: boolean;
}

export class LayerCache<L extends CachedLayer> {
  readonly capacityBytes: number;
  readonly #onEvict: (layer: L) => void;
  readonly #slots = new Map<Digest, Slot<L>>();
  /** Leased or pinned. */
  readonly #heldIds = new Set<Digest>();
  #heldBytes = 0;
  readonly #evictable: LRUCache<Digest, Slot<L>>;

  /** `onEvict` is called for each layer that had to make room, when it is already forgotten. */
  constructor(options: { capacityBytes: number; onEvict: (layer: L) => void }) {
    this.capacityBytes = options.capacityBytes;
    this.#onEvict = options.onEvict;
    this.#evictable = new LRUCache({
      // Room is made by us before it is needed, held layers counted: lru-cache only adds up.
      maxSize: Number.MAX_SAFE_INTEGER,
      sizeCalculation: ({ layer }) => sizeOf(layer),
    });
  }

  get usedBytes(): number {
    return this.#heldBytes + this.#evictable.calculatedSize;
  }

  /** The part of `usedBytes` that cannot be evicted now. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  has(chainId: Digest): boolean {
    return this.#slots.has(chainId);
  }

  get(chainId: Digest): L | undefined {
    return this.#slots.get(chainId)?.layer;
  }

  /** All layers: first those that may be evicted, the next to go first. */
  layers(): L[] {
    const evictable = [...this.#evictable.rvalues()].filter((slot) => slot !== undefined);
    const held = [...this.#slots.values()].filter((slot) => this.#heldIds.has(slot.layer.chainId));
    return [...evictable, ...held].map(({ layer }) => layer);
  }

  /**
   * Adds a layer as the most recently used, evicting others as needed. Throws `image.cache_full`,
   * with nothing evicted and nothing added, when it does not fit beside what is held.
   */
  add(layer: L): void {
    if (this.#slots.has(layer.chainId)) {
      this.touch(layer.chainId);
      return;
    }
    this.#makeRoom(sizeOf(layer));
    const slot = { layer, leases: 0, pinned: false };
    this.#slots.set(layer.chainId, slot);
    this.#evictable.set(layer.chainId, slot);
  }

  /**
   * Adds a layer that is on disk already and is to be kept whatever the capacity: what a restart
   * finds. `evictExcess` brings the whole back under the capacity afterwards.
   */
  restore(layer: L, options: { pinned: boolean }): void {
    const slot = { layer, leases: 0, pinned: options.pinned };
    this.#slots.set(layer.chainId, slot);
    if (slot.pinned) this.#hold(slot);
    else this.#evictable.set(layer.chainId, slot);
  }

  evictExcess(): void {
    while (this.usedBytes > this.capacityBytes && this.#evictable.size > 0) this.#evictOldest();
  }

  /** Forgets a layer without calling `onEvict`. False when it is unknown or held. */
  remove(chainId: Digest): boolean {
    if (!this.#evictable.delete(chainId)) return false;
    return this.#slots.delete(chainId);
  }

  /** Makes a layer the most recently used. Throws `image.not_found`. */
  touch(chainId: Digest): void {
    this.#evictable.get(this.#slotOf(chainId).layer.chainId);
  }

  /** Keeps a layer until `unpin`, however often it was pinned. Throws `image.not_found`. */
  pin(chainId: Digest): void {
    const slot = this.#slotOf(chainId);
    slot.pinned = true;
    this.#hold(slot);
  }

  unpin(chainId: Digest): void {
    const slot = this.#slots.get(chainId);
    if (slot === undefined) return;
    slot.pinned = false;
    this.#letGo(slot);
  }

  isPinned(chainId: Digest): boolean {
    return this.#slots.get(chainId)?.pinned === true;
  }

  /** Leases all layers or none. Throws `image.not_found`, naming the one that is missing. */
  acquire(chainIds: readonly Digest[]): Lease<L> {
    const slots = chainIds.map((chainId) => this.#slotOf(chainId));
    for (const slot of slots) {
      slot.leases += 1;
      this.#hold(slot);
    }
    let released = false;
    const release = (): void => {
      if (released) return;
      released = true;
      for (const slot of slots) {
        slot.leases -= 1;
        this.#letGo(slot);
      }
    };
    return { layers: slots.map(({ layer }) => layer), release, [Symbol.dispose]: release };
  }

  #slotOf(chainId: Digest): Slot<L> {
    const slot = this.#slots.get(chainId);
    if (slot !== undefined) return slot;
    throw new HatchError(
      'image.not_found',
      `Cannot use layer ${chainId}: it is not stored here, import its image again`,
    );
  }

  #hold(slot: Slot<L>): void {
    const { chainId } = slot.layer;
    if (this.#heldIds.has(chainId)) return;
    this.#evictable.delete(chainId);
    this.#heldIds.add(chainId);
    this.#heldBytes += sizeOf(slot.layer);
  }

  #letGo(slot: Slot<L>): void {
    const { chainId } = slot.layer;
    if (slot.leases > 0 || slot.pinned || !this.#heldIds.delete(chainId)) return;
    this.#heldBytes -= sizeOf(slot.layer);
    // In use until now: the most recently used.
    this.#evictable.set(chainId, slot);
    // Only a restart with a smaller capacity leaves more held than fits.
    this.evictExcess();
  }

  #makeRoom(bytes: number): void {
    if (this.#heldBytes + bytes > this.capacityBytes)
      throw new HatchError(
        'image.cache_full',
        `Cannot store a layer of ${bytes} bytes: ${this.#heldBytes} of ${this.capacityBytes} ` +
          'bytes are pinned or mounted, unpin layers or raise the capacity',
        {
          details: {
            sizeBytes: bytes,
            heldBytes: this.#heldBytes,
            usedBytes: this.usedBytes,
            capacityBytes: this.capacityBytes,
          },
        },
      );
    while (this.usedBytes + bytes > this.capacityBytes) this.#evictOldest();
  }

  #evictOldest(): void {
    const slot = this.#evictable.pop();
    if (slot === undefined) return;
    this.#slots.delete(slot.layer.chainId);
    this.#onEvict(slot.layer);
  }
}

/** lru-cache takes no entry of size 0; an empty layer costs a directory anyway. */
function sizeOf(layer: CachedLayer): number {
  return Math.max(layer.sizeBytes, 1);
}
