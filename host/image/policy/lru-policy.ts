/** Least recently used first. lru-cache keeps the order and adds up the bytes; we decide when. */
import { LRUCache } from 'lru-cache';
import type { Digest } from '../digest.ts';
import type { EvictableLayer, EvictionPolicy } from './eviction-policy.ts';

export class LruPolicy implements EvictionPolicy {
  readonly #layers = new LRUCache<Digest, EvictableLayer>({
    // Never reached: held layers count against the capacity too, and lru-cache does not know them.
    maxSize: Number.MAX_SAFE_INTEGER,
    sizeCalculation: ({ bytes }) => bytes,
  });

  get bytes(): number {
    return this.#layers.calculatedSize;
  }

  used(chainId: Digest): void {
    this.#layers.get(chainId);
  }

  add(layer: EvictableLayer): void {
    this.#layers.set(layer.chainId, layer);
  }

  remove(chainId: Digest): boolean {
    return this.#layers.delete(chainId);
  }

  takeVictims(bytesWanted: number): Digest[] {
    const victims: Digest[] = [];
    for (let bytes = 0; bytes < bytesWanted;) {
      const layer = this.#layers.pop();
      if (layer === undefined) break;
      victims.push(layer.chainId);
      bytes += layer.bytes;
    }
    return victims;
  }

  order(): Digest[] {
    return [...this.#layers.rkeys()];
  }
}
