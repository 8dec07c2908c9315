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
  readonly parent: Candidate | undefined;
  starts: number;
}

export function planBurst(
  functions: readonly ExpectedFunction[],
  capacityBytes: number,
): BurstPlan {
  const candidates = candidatesOf(functions);
  const pinned = new Set<Candidate>();
  let roomBytes = capacityBytes;
  for (;;) {
    const best = bestOf(candidates, pinned, roomBytes);
    if (best === undefined) break;
    for (const candidate of best) {
      pinned.add(candidate);
      roomBytes -= candidate.bytes;
    }
  }
  return {
    pinned: [...pinned].map(({ chainId }) => chainId),
    pinnedBytes: capacityBytes - roomBytes,
    leftOut: candidates.filter((one) => !pinned.has(one)).map(({ chainId }) => chainId),
  };
}

function candidatesOf(functions: readonly ExpectedFunction[]): Candidate[] {
  const byId = new Map<Digest, Candidate>();
  for (const { starts, layers } of functions) {
    let parent: Candidate | undefined;
    for (const { chainId, sizeBytes } of layers) {
      const bytes = Math.max(sizeBytes, 1);
      const candidate: Candidate = byId.get(chainId) ?? { chainId, bytes, parent, starts: 0 };
      candidate.starts += starts;
      byId.set(chainId, candidate);
      parent = candidate;
    }
  }
  return [...byId.values()].filter((candidate) => candidate.starts > 0);
}

/** The layer with most starts per byte that fits, below it what else it needs, bottom first. */
function bestOf(
  candidates: readonly Candidate[],
  pinned: ReadonlySet<Candidate>,
  roomBytes: number,
): Candidate[] | undefined {
  let best: Candidate | undefined;
  let bestWorth = 0;
  for (const candidate of candidates) {
    if (pinned.has(candidate)) continue;
    let [bytes, starts] = [0, 0];
    for (const missing of missingFor(candidate, pinned)) {
      bytes += missing.bytes;
      starts += missing.starts;
    }
    if (bytes > roomBytes || starts / bytes <= bestWorth) continue;
    best = candidate;
    bestWorth = starts / bytes;
  }
  return best === undefined ? undefined : [...missingFor(best, pinned)].reverse();
}

function* missingFor(
  top: Candidate,
  pinned: ReadonlySet<Candidate>,
): Generator<Candidate, undefined> {
  for (let one: Candidate | undefined = top; one !== undefined; one = one.parent) {
    if (pinned.has(one)) return;
    yield one;
  }
}
