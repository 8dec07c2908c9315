/** Pulls of layers, one after another, through the host's own layer cache and burst planner. */
import { HatchError } from '../../host/base/errors.ts';
import type { Digest } from '../../host/image/digest.ts';
import { LayerCache, type CachedLayer, type Lease } from '../../host/image/layer-cache.ts';
import { planBurst } from '../../host/image/policy/burst-plan.ts';
import type { EvictionPolicy } from '../../host/image/policy/eviction-policy.ts';
import type { Pull } from './layer-trace.ts';

/** Whose layers will be pulled, as far as the planner is told: how often each. */
export type Expectation = ReadonlyMap<Digest, number>;

export interface Bursts {
  /** What is said of each, `pullsEach` pulls long. */
  expected: readonly Expectation[];
  pullsEach: number;
  /** `ahead` of the burst; `late`, from its first pull on; or only what is pulled is pinned. */
  prefetch: 'ahead' | 'late' | 'none';
}

export interface LayerReplayOptions {
  capacityBytes: number;
  policy: EvictionPolicy;
  bursts?: Bursts | undefined;
}

export interface LayerReplayResult {
  hits: number;
  hitBytes: number;
  prefetchedBytes: number;
}

/** Of a registry nearby, one layer after another. */
const [requestMs, bytesPerMs] = [20, 100_000];

export function replayPulls(
  pulls: readonly Pull[],
  options: LayerReplayOptions,
): LayerReplayResult {
  const replay = new LayerReplay(pulls, options);
  for (const [index, pull] of pulls.entries()) replay.pull(pull, index);
  return replay.result;
}

class LayerReplay {
  readonly result: LayerReplayResult = { hits: 0, hitBytes: 0, prefetchedBytes: 0 };
  readonly #options: LayerReplayOptions;
  readonly #cache: LayerCache<CachedLayer>;
  readonly #sizes: ReadonlyMap<Digest, number>;
  #leases: Lease<CachedLayer>[] = [];
  #planned = new Set<Digest>();
  readonly #arrivesAtMs = new Map<Digest, number>();

  constructor(pulls: readonly Pull[], options: LayerReplayOptions) {
    this.#options = options;
    this.#sizes = new Map(pulls.map(({ digest, sizeBytes }) => [digest, sizeBytes]));
    const { capacityBytes, policy } = options;
    this.#cache = new LayerCache({ capacityBytes, policy, onEvict: () => undefined });
  }

  pull({ digest, sizeBytes, timeMs }: Pull, index: number): void {
    const { bursts } = this.#options;
    if (bursts !== undefined && index % bursts.pullsEach === 0)
      this.#begin(bursts, bursts.expected[index / bursts.pullsEach] ?? new Map(), timeMs);
    if (this.#cache.has(digest)) {
      this.#cache.touch(digest);
      if ((this.#arrivesAtMs.get(digest) ?? -Infinity) > timeMs) return;
      this.result.hits++;
      this.result.hitBytes += sizeBytes;
    } else if (this.#add(digest) && this.#planned.has(digest)) this.#hold(digest);
  }

  /** The burst before has ended. */
  #begin(bursts: Bursts, expected: Expectation, nowMs: number): void {
    for (const lease of this.#leases) lease.release();
    this.#leases = [];
    const functions = [...expected].map(([chainId, starts]) => ({
      starts,
      layers: [{ chainId, sizeBytes: this.#sizes.get(chainId) ?? 0 }],
    }));
    const { pinned } = planBurst(functions, this.#options.capacityBytes);
    this.#planned = new Set(pinned);
    this.#arrivesAtMs.clear();
    // What is here must not make room for what comes.
    const missing = pinned.filter((id) => !this.#cache.has(id));
    for (const id of pinned) if (this.#cache.has(id)) this.#hold(id);
    if (bursts.prefetch === 'none') return;
    let arrivesAtMs = bursts.prefetch === 'late' ? nowMs : -Infinity;
    for (const id of missing) {
      if (!this.#add(id)) continue;
      this.#hold(id);
      const sizeBytes = this.#sizes.get(id) ?? 0;
      this.result.prefetchedBytes += sizeBytes;
      arrivesAtMs += requestMs + sizeBytes / bytesPerMs;
      this.#arrivesAtMs.set(id, arrivesAtMs);
    }
  }

  #hold(id: Digest): void {
    this.#leases.push(this.#cache.acquire([id]));
  }

  /** False when there is no room beside what is held: it is used and not kept. */
  #add(chainId: Digest): boolean {
    try {
      this.#cache.add({ chainId, sizeBytes: this.#sizes.get(chainId) ?? 0 });
      return true;
    } catch (error) {
      if (error instanceof HatchError && error.code === 'image.cache_full') return false;
      throw error;
    }
  }
}
