/**
 * Which layer goes first when room is wanted. A policy holds only the layers that may go: the cache
 * takes out what is pinned or mounted, and puts it back when it is let go, which is no use of it.
 */
import type { Digest } from '../digest.ts';
import { GreedyDualPolicy } from './greedy-dual-policy.ts';
import { LruPolicy } from './lru-policy.ts';

export interface EvictableLayer {
  chainId: Digest;
  /** At least 1. */
  bytes: number;
}

export interface EvictionPolicy {
  /** Of all layers in it. */
  readonly bytes: number;
  /** The layer was wanted; also one that is held now, is added next or was evicted before. */
  used(chainId: Digest): void;
  /** The layer may go; for as long as nothing else is used it is the last used one. */
  add(layer: EvictableLayer): void;
  /** False when it is not in it. */
  remove(chainId: Digest): boolean;
  /** Takes out those to evict for that many bytes, or all where that is less; first first. */
  takeVictims(bytesWanted: number): Digest[];
  /** The next to go first. */
  order(): Digest[];
}

/**
 * `lru`: what has not been used for longest. `gdsf`: what is used seldom, and quick to pull for the
 * bytes it takes; see `npm run sim -- layers` for what it saves.
 */
export const evictionPolicyNames = ['gdsf', 'lru'] as const;
export type EvictionPolicyName = (typeof evictionPolicyNames)[number];

export function makeEvictionPolicy(name: EvictionPolicyName): EvictionPolicy {
  return name === 'lru' ? new LruPolicy() : new GreedyDualPolicy();
}
