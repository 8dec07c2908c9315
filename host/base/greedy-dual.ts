/**
 * What to keep when not all can be: Greedy-Dual-Size-Frequency (Cherkasova, HP Labs 1998; for
 * functions: Fuerst and Sharma, "FaasCache", ASPLOS 2021). A thing, an idle instance or a layer, is
 * worth keeping when it is used often and dear to get again, less so when it is large; the clock,
 * the worth of what went last, ages what has not been used since.
 */
export class GreedyDual {
  #clock = 0;

  get clock(): number {
    return this.#clock;
  }

  /** `clock` is that of the last use. */
  priority(
    use: { count: number; clock: number },
    again: { costMs: number; bytes: number },
  ): number {
    return use.clock + (use.count * again.costMs) / Math.max(again.bytes, 1);
  }

  evicted(priority: number): void {
    this.#clock = Math.max(this.#clock, priority);
  }
}

export interface EvictionCandidate {
  bytes: number;
  /** The least goes first. */
  priority: number;
}

/**
 * The ones to give up so that as many bytes come free, by priority; none of them could be spared.
 * Undefined when all together would not be enough: then none has to go.
 */
export function chooseVictims<T extends EvictionCandidate>(
  candidates: readonly T[],
  bytesWanted: number,
): T[] | undefined {
  if (bytesWanted <= 0) return [];
  const chosen: T[] = [];
  let bytes = 0;
  for (const one of [...candidates].sort((a, b) => a.priority - b.priority)) {
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
