/**
 * Greedy-Dual-Size-Frequency for layers. Uses are counted of layers that are gone too, so that one
 * which comes back often is known for it at once: most layers are used once and never again. The
 * counts are in memory: a host that was started again begins with what is large.
 */
import { LRUCache } from 'lru-cache';
import { chooseVictims, GreedyDual } from '../../base/greedy-dual.ts';
import type { EvictionCandidate } from '../../base/greedy-dual.ts';
import type { Digest } from '../digest.ts';
import type { EvictableLayer, EvictionPolicy } from './eviction-policy.ts';

interface Entry extends EvictionCandidate {
  chainId: Digest;
}

export class GreedyDualPolicy implements EvictionPolicy {
  readonly #greedyDual = new GreedyDual();
  /** From least to most recently used, which decides between equals. */
  readonly #entries = new Map<Digest, Entry>();
  readonly #uses = new LRUCache<Digest, number>({ max: countedLayersMax });
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  used(chainId: Digest): void {
    this.#uses.set(chainId, (this.#uses.get(chainId) ?? 0) + 1);
    const entry = this.#entries.get(chainId);
    if (entry !== undefined) this.add(entry);
  }

  add({ chainId, bytes }: EvictableLayer): void {
    this.remove(chainId);
    const use = { count: this.#uses.get(chainId) ?? 1, clock: this.#greedyDual.clock };
    const priority = this.#greedyDual.priority(use, { costMs: pullMs(bytes), bytes });
    this.#entries.set(chainId, { chainId, bytes, priority });
    this.#bytes += bytes;
  }

  remove(chainId: Digest): boolean {
    this.#bytes -= this.#entries.get(chainId)?.bytes ?? 0;
    return this.#entries.delete(chainId);
  }

  takeVictims(bytesWanted: number): Digest[] {
    const entries = [...this.#entries.values()];
    const victims = chooseVictims(entries, Math.min(bytesWanted, this.#bytes)) ?? [];
    for (const { chainId, priority } of victims) {
      this.remove(chainId);
      this.#greedyDual.evicted(priority);
    }
    return victims.map(({ chainId }) => chainId);
  }

  order(): Digest[] {
    const entries = [...this.#entries.values()];
    return entries.sort((a, b) => a.priority - b.priority).map(({ chainId }) => chainId);
  }
}

/**
 * What it takes to have a layer again: asking for it, then its bytes. Rough figures of a registry
 * nearby; five times as much or as little for the first changes hit ratios by a point or two.
 */
function pullMs(bytes: number): number {
  return 20 + bytes / 100_000;
}

/** About 2 MiB at most. */
const countedLayersMax = 2 ** 14;
