/** What the policies are compared with: simple rules, and rules that know the future. */
import { GreedyDual } from '../../host/base/greedy-dual.ts';
import { decode, type Timeline } from './arrivals.ts';
import type { Candidate, VictimRule } from './replay.ts';

/** The host's. A start costs the same for each function here: the trace does not tell. */
export function greedyDual(functions: Timeline['functions'], startMs: number): VictimRule {
  const policy = new GreedyDual();
  return {
    get clock() {
      return policy.clock;
    },
    priority: ({ functionIndex, n, demand }) => {
      const bytes = functions[functionIndex]?.memoryMb ?? 0;
      return policy.priority(demand.use(n), { costMs: startMs, bytes });
    },
    evicted: (priority) => policy.evicted(priority),
  };
}

/** The instance goes that has been without a call for longest. */
export function leastRecentlyUsed(): VictimRule {
  let calls = 0;
  const lastCall: number[][] = [];
  return {
    priority: ({ functionIndex, n }) => lastCall[functionIndex]?.[n] ?? 0,
    called: (functionIndex, n) => {
      (lastCall[functionIndex] ??= [])[n] = ++calls;
    },
  };
}

/**
 * Knows when each instance will be needed next, and gives back what would take most memory for
 * longest until then: Belady's rule, weighed by size. It starts instances on demand only. With
 * sizes the best choice is NP-hard to find; `leastColdStarts` bounds what any could reach.
 */
export function clairvoyant(timeline: Timeline): VictimRule {
  const starts = timeline.functions.map((): number[][] => []);
  for (const { functionIndex, n, startMs } of needs(timeline))
    ((starts[functionIndex] ??= [])[n] ??= []).push(startMs);
  const passed = starts.map((): number[] => []);
  return {
    priority: ({ functionIndex, n, nowMs }: Candidate) => {
      const next = starts[functionIndex]?.[n]?.[passed[functionIndex]?.[n] ?? 0] ?? Infinity;
      return -(next - nowMs) * (timeline.functions[functionIndex]?.memoryMb ?? 0);
    },
    called: (functionIndex, n) => {
      const counts = (passed[functionIndex] ??= []);
      counts[n] = (counts[n] ?? 0) + 1;
    },
  };
}

/**
 * The fewest cold starts under a cap that any policy without pre-warming can have, clairvoyant or
 * not, as long as it refuses no call. Keeping an instance over an idle time takes its size times
 * that time; all idle times that are bridged must fit into the cap times the whole time, less what
 * calls use. So it takes the cheapest as long as they fit: Berger et al., "Practical Bounds on
 * Optimal Caching with Variable Object Sizes", SIGMETRICS 2018, PFOO-L. That they must fit at every
 * moment is left out, which is why it is a bound and no policy.
 */
export function leastColdStarts(timeline: Timeline, capMb: number): number {
  const costs: number[] = [];
  let roomMbMs = capMb * timeline.endMs;
  let calls = 0;
  for (const { functionIndex, idleMs, busyMs } of needs(timeline)) {
    const memoryMb = timeline.functions[functionIndex]?.memoryMb ?? 0;
    calls++;
    roomMbMs -= memoryMb * busyMs;
    if (idleMs !== undefined) costs.push(memoryMb * idleMs);
  }
  let hits = 0;
  for (const cost of Float64Array.from(costs).sort()) {
    roomMbMs -= cost;
    if (roomMbMs < 0) break;
    hits++;
  }
  return calls - hits;
}

interface Need {
  functionIndex: number;
  /** It is the n-th call of the function that runs at the same time. */
  n: number;
  startMs: number;
  /** How long fewer than n calls ran before; undefined the first time. */
  idleMs: number | undefined;
  /** How long n or more ran the last time before. */
  busyMs: number;
}

function* needs(timeline: Timeline): Generator<Need> {
  const levels = timeline.functions.map((): { startMs: number; endMs: number }[] => []);
  const running = timeline.functions.map(() => 0);
  for (const key of timeline.events) {
    const { functionIndex, isStart, timeMs } = decode(key);
    if (timeMs >= timeline.endMs) return;
    const n = (running[functionIndex] ?? 0) + (isStart ? 1 : 0);
    running[functionIndex] = isStart ? n : n - 1;
    const level = levels[functionIndex]?.[n];
    if (!isStart) {
      if (level !== undefined) level.endMs = timeMs;
      continue;
    }
    const before = level ?? { startMs: timeMs, endMs: timeMs };
    const idleMs = level === undefined ? undefined : timeMs - level.endMs;
    yield { functionIndex, n, startMs: timeMs, idleMs, busyMs: before.endMs - before.startMs };
    (levels[functionIndex] ??= [])[n] = { startMs: timeMs, endMs: timeMs };
  }
}
