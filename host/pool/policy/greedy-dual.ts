/**
 * Which idle instances go when memory is wanted: Greedy-Dual-Size-Frequency (Cherkasova, HP Labs
 * 1998; for functions: Fuerst and Sharma, "FaasCache", ASPLOS 2021). An instance is worth keeping
 * when it is called often and slow to start, less so when it is large; the clock, the worth of what
 * went last, ages what has not been used since.
 */
import type { InstanceUse } from './instance-demand.ts';

export class GreedyDual {
  #clock = 0;

  get clock(): number {
    return this.#clock;
  }

  priority(use: InstanceUse, start: { costMs: number; bytes: number }): number {
    return use.clock + (use.count * start.costMs) / Math.max(start.bytes, 1);
  }

  evicted(priority: number): void {
    this.#clock = Math.max(this.#clock, priority);
  }
}

export interface IdleCandidate {
  bytes: number;
  /** The least goes first. */
  priority: number;
}

/**
 * The ones to end so that as many bytes come free, by priority; none of them could be spared.
 * Undefined when all together would not be enough: then none has to go.
 */
export function chooseVictims<T extends IdleCandidate>(
  idle: readonly T[],
  bytesWanted: number,
): T[] | undefined {
  if (bytesWanted <= 0) return [];
  const chosen: T[] = [];
  let bytes = 0;
  for (const one of [...idle].sort((a, b) => a.priority - b.priority)) {
    chosen.push(one);
    bytes += one.bytes;
    if (bytes >= bytesWanted) break;
  }
  if (bytes < bytesWanted) return undefined;
  // The last one may be so large that some before it can stay: the worthiest first.
  return chosen
    .reverse()
    .filter((one) => {
      const isSpared = bytes - one.bytes >= bytesWanted;
      if (isSpared) bytes -= one.bytes;
      return !isSpared;
    })
    .reverse();
}
