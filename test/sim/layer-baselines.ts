/** What the layer cache is compared with, and what its planner may be told. */
import type { Digest } from '../../host/image/digest.ts';
import type { EvictableLayer, EvictionPolicy } from '../../host/image/policy/eviction-policy.ts';
import type { Expectation } from './layer-replay.ts';
import type { Pull } from './layer-trace.ts';
import { randomFrom } from './random.ts';

/**
 * Knows when each layer is pulled next, and evicts what takes most bytes for longest until then:
 * Belady's rule by size. As the host's policies it must make room for any layer that is pulled.
 */
export class Belady implements EvictionPolicy {
  readonly #layers = new Map<Digest, EvictableLayer>();
  /** Indexes of the pulls of each, the next one last. */
  readonly #pulls = new Map<Digest, number[]>();
  #now = 0;
  bytes = 0;

  constructor(pulls: readonly Pull[]) {
    for (const [index, { digest }] of [...pulls.entries()].reverse()) {
      const indexes = this.#pulls.get(digest) ?? [];
      indexes.push(index);
      this.#pulls.set(digest, indexes);
    }
  }

  used(chainId: Digest): void {
    this.#now = this.#pulls.get(chainId)?.pop() ?? this.#now;
  }

  add(layer: EvictableLayer): void {
    this.#layers.set(layer.chainId, layer);
    this.bytes += layer.bytes;
  }

  remove(chainId: Digest): boolean {
    this.bytes -= this.#layers.get(chainId)?.bytes ?? 0;
    return this.#layers.delete(chainId);
  }

  takeVictims(bytesWanted: number): Digest[] {
    const before = this.bytes;
    const victims: Digest[] = [];
    for (const id of this.order()) {
      if (before - this.bytes >= bytesWanted) break;
      this.remove(id);
      victims.push(id);
    }
    return victims;
  }

  order(): Digest[] {
    const cost = ({ chainId, bytes }: EvictableLayer): number =>
      bytes * ((this.#pulls.get(chainId)?.at(-1) ?? Infinity) - this.#now);
    return [...this.#layers.values()]
      .map((layer) => ({ chainId: layer.chainId, cost: cost(layer) }))
      .sort((a, b) => (a.cost === b.cost ? 0 : b.cost - a.cost))
      .map(({ chainId }) => chainId);
  }
}

/** A schedule that tells all of each burst, and nothing beyond it. */
export function declared(pulls: readonly Pull[], pullsEach: number): Expectation[] {
  const bursts: Map<Digest, number>[] = [];
  for (const [index, { digest }] of pulls.entries()) {
    const burst = (bursts[Math.floor(index / pullsEach)] ??= new Map());
    burst.set(digest, (burst.get(digest) ?? 0) + 1);
  }
  return bursts;
}

/** One that misses a quarter of what comes, and is wrong by up to twice or half in how often. */
export function declaredRoughly(pulls: readonly Pull[], pullsEach: number): Expectation[] {
  const random = randomFrom(1);
  return declared(pulls, pullsEach).map((burst) => {
    const known = [...burst].filter(() => random() >= 0.25);
    return new Map(known.map(([digest, count]) => [digest, count * 2 ** (2 * random() - 1)]));
  });
}

/** No schedule: what was pulled so far, the last burst counting as much as all before it. */
export function learnt(pulls: readonly Pull[], pullsEach: number): Expectation[] {
  let known = new Map<Digest, number>();
  return declared(pulls, pullsEach).map((burst) => {
    const expected = known;
    known = new Map([...known].map(([digest, count]) => [digest, count / 2]));
    for (const [digest, count] of burst) known.set(digest, (known.get(digest) ?? 0) + count / 2);
    return expected;
  });
}
