/**
 * Which layers to fetch and pin before a burst of calls: those that most starts wait for per byte,
 * as many as fit. A layer is of no use without those below it, so it is weighed together with what
 * is still missing there.
 */
import type { Digest } from '../digest.ts';

export interface BurstLayer {
  chainId: Digest;
  /** Unpacked; an estimate where it is not stored yet. */
  sizeBytes: number;
}

export interface ExpectedFunction {
  /** How often its layers will be wanted; only the proportions count. */
  starts: number;
  /** Bottom first. */
  layers: readonly BurstLayer[];
  /** Stacks of their own that it needs besides, each with its bottom first. */
  images?: readonly (readonly BurstLayer[])[];
}

export interface BurstPlan {
  /** In the order to fetch them: what helps most first, and what is below before what is above. */
  pinned: Digest[];
  pinnedBytes: number;
  /** For which there was no room. */
  leftOut: Digest[];
}

interface Candidate {
  readonly chainId: Digest;
  readonly bytes: number;
  /** Of no use without these and what they need. */
  readonly needs: readonly Candidate[];
  starts: number;
}

export function planBurst(
  functions: readonly ExpectedFunction[],
  capacityBytes: number,
): BurstPlan {
  const candidates = candidatesOf(functions);
  const pinned = new Set<Digest>();
  let roomBytes = capacityBytes;
  for (;;) {
    const best = bestOf(candidates, pinned, roomBytes);
    if (best === undefined) break;
    for (const candidate of best) {
      pinned.add(candidate.chainId);
      roomBytes -= candidate.bytes;
    }
  }
  const known = new Set(candidates.map(({ chainId }) => chainId));
  return {
    pinned: [...pinned],
    pinnedBytes: capacityBytes - roomBytes,
    leftOut: [...known].filter((id) => !pinned.has(id)),
  };
}

function candidatesOf(functions: readonly ExpectedFunction[]): Candidate[] {
  const byKey = new Map<string, Candidate>();
  for (const { starts, layers, images = [] } of functions) {
    const counted = new Set<Candidate>();
    /** Gives the uppermost one. */
    const stack = (chain: readonly BurstLayer[], below: readonly Candidate[]): Candidate[] => {
      let needs = below;
      for (const { chainId, sizeBytes } of chain) {
        // A bundle that two functions have upon other images needs other layers for each.
        const key = [chainId, ...below.map((one) => one.chainId)].join(' ');
        const bytes = Math.max(sizeBytes, 1);
        const candidate: Candidate = byKey.get(key) ?? { chainId, bytes, needs, starts: 0 };
        if (!counted.has(candidate)) candidate.starts += starts;
        counted.add(candidate);
        byKey.set(key, candidate);
        needs = [candidate];
      }
      return [...needs];
    };
    stack(
      layers,
      images.flatMap((chain) => stack(chain, [])),
    );
  }
  return [...byKey.values()].filter((candidate) => candidate.starts > 0);
}

/** The layer with most starts per byte that fits, after what else it needs, bottom first. */
function bestOf(
  candidates: readonly Candidate[],
  pinned: ReadonlySet<Digest>,
  roomBytes: number,
): Candidate[] | undefined {
  let best: Candidate[] | undefined;
  let bestWorth = 0;
  for (const candidate of candidates) {
    const missing = missingFor(candidate, pinned);
    if (missing.length === 0) continue;
    let [bytes, starts] = [0, 0];
    for (const one of missing) {
      bytes += one.bytes;
      starts += one.starts;
    }
    if (bytes > roomBytes || starts / bytes <= bestWorth) continue;
    best = missing;
    bestWorth = starts / bytes;
  }
  return best;
}

/** Bottom first, each once. */
function missingFor(top: Candidate, pinned: ReadonlySet<Digest>): Candidate[] {
  const missing = new Map<Digest, Candidate>();
  const visit = (one: Candidate): void => {
    for (const needed of one.needs) visit(needed);
    if (!pinned.has(one.chainId)) missing.set(one.chainId, one);
  };
  visit(top);
  return [...missing.values()];
}
