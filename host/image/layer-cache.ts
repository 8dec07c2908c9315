/**
 * Which layers stay on disk, by bytes. A layer that is pinned, or leased because it is mounted, is
 * never evicted; it counts against the same capacity. Among the others a policy decides.
 */
import { HatchError } from '../base/errors.ts';
import type { Digest } from './digest.ts';
import type { EvictionPolicy } from './policy/eviction-policy.ts';

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
  readonly #evictable: EvictionPolicy;

  /** `onEvict` is called for each layer that had to make room, when it is already forgotten. */
  constructor(options: {
    capacityBytes: number;
    policy: EvictionPolicy;
    onEvict: (layer: L) => void;
  }) {
    this.capacityBytes = options.capacityBytes;
    this.#onEvict = options.onEvict;
    this.#evictable = options.policy;
  }

  get usedBytes(): number {
    return this.#heldBytes + this.#evictable.bytes;
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
    const ids = [...this.#evictable.order(), ...this.#heldIds];
    return ids.map((id) => this.#slotOf(id).layer);
  }

  /**
   * Adds a layer as one just used, evicting others as needed. Throws `image.cache_full`,
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
    this.#evictable.used(layer.chainId);
    this.#makeEvictable(slot);
  }

  /**
   * Adds a layer that is on disk already and is to be kept whatever the capacity: what a restart
   * finds. `evictExcess` brings the whole back under the capacity afterwards.
   */
  restore(layer: L, options: { pinned: boolean }): void {
    const slot = { layer, leases: 0, pinned: options.pinned };
    this.#slots.set(layer.chainId, slot);
    this.#evictable.used(layer.chainId);
    if (slot.pinned) this.#hold(slot);
    else this.#makeEvictable(slot);
  }

  evictExcess(): void {
    this.#evict(this.usedBytes - this.capacityBytes);
  }

  /** Forgets a layer without calling `onEvict`. False when it is unknown or held. */
  remove(chainId: Digest): boolean {
    if (!this.#evictable.remove(chainId)) return false;
    return this.#slots.delete(chainId);
  }

  /** Counts as a use, as adding and acquiring do. Throws `image.not_found`. */
  touch(chainId: Digest): void {
    this.#evictable.used(this.#slotOf(chainId).layer.chainId);
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

  /** Pinned or leased. */
  isHeld(chainId: Digest): boolean {
    return this.#heldIds.has(chainId);
  }

  /** Leases all layers or none. Throws `image.not_found`, naming the one that is missing. */
  acquire(chainIds: readonly Digest[]): Lease<L> {
    const slots = chainIds.map((chainId) => this.#slotOf(chainId));
    for (const slot of slots) {
      slot.leases += 1;
      this.#evictable.used(slot.layer.chainId);
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
    this.#evictable.remove(chainId);
    this.#heldIds.add(chainId);
    this.#heldBytes += sizeOf(slot.layer);
  }

  #letGo(slot: Slot<L>): void {
    const { chainId } = slot.layer;
    if (slot.leases > 0 || slot.pinned || !this.#heldIds.delete(chainId)) return;
    this.#heldBytes -= sizeOf(slot.layer);
    // In use until now.
    this.#makeEvictable(slot);
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
    this.#evict(this.usedBytes + bytes - this.capacityBytes);
  }

  #makeEvictable({ layer }: Slot<L>): void {
    this.#evictable.add({ chainId: layer.chainId, bytes: sizeOf(layer) });
  }

  #evict(bytesWanted: number): void {
    for (const id of this.#evictable.takeVictims(bytesWanted)) {
      const { layer } = this.#slotOf(id);
      this.#slots.delete(id);
      this.#onEvict(layer);
    }
  }
}

/** An empty layer costs a directory too. */
function sizeOf(layer: CachedLayer): number {
  return Math.max(layer.sizeBytes, 1);
}
