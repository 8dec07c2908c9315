/** The scenario `keepalive`: the host's keep-alive and eviction against what is usual elsewhere. */
import type { KeepAlivePolicy } from '../../host/pool/policy/instance-demand.ts';
import type { Budget, Row } from '../bench/report.ts';
import { makeTimeline, type ArrivalModel, type Timeline } from './arrivals.ts';
import { clairvoyant, greedyDual, leastColdStarts, leastRecentlyUsed } from './baselines.ts';
import { replay, type ReplayResult, type StartCosts, type VictimRule } from './replay.ts';
import type { Trace, TraceFunction } from './trace.ts';

export interface KeepAliveOptions {
  model: ArrivalModel;
  seed: number;
  /** Of the peak memory of fixed-10min. */
  capShare: number;
  costs: StartCosts;
  progress: (text: string) => void;
}

export interface KeepAliveReport {
  rows: KeepAliveRow[];
  ratios: Record<string, number>;
  budgets: Budget[];
}

/** Percentiles are those of what a call waits for its start. */
export interface KeepAliveRow extends Row, Omit<ReplayResult, 'calls'> {
  coldShare: number;
  meanPenaltyMs: number;
  /** Absent where there is none. */
  capMb?: number;
}

const minuteMs = 60_000;
const fixed = (minutes: number): KeepAlivePolicy => ({
  policy: 'fixed',
  keepMs: minutes * minuteMs,
});
const adaptive: KeepAlivePolicy = { policy: 'adaptive' };
const forever = fixed(Infinity);

export function simulateKeepAlive(trace: Trace, options: KeepAliveOptions): KeepAliveReport {
  const { capShare, costs, progress } = options;
  const timeline = timelineOf(trace.functions, trace.minutes, options);
  const rows: KeepAliveRow[] = [];
  const run = (
    name: string,
    keepAlive: KeepAlivePolicy,
    cap?: { capMb: number; victims: VictimRule },
  ): ReplayResult => {
    progress(`${name}, ${timeline.calls} calls`);
    const { capMb, victims } = cap ?? uncapped(timeline, costs);
    const result = replay(timeline, { keepAlive, capMb, victims, costs });
    rows.push(rowOf(name, result, { costs, capMb: cap?.capMb }));
    return result;
  };
  run('fixed-1min', fixed(1));
  const tenMinutes = run('fixed-10min', fixed(10));
  run('fixed-20min', fixed(20));
  const ours = run('adaptive', adaptive);
  const capMb = capShare * tenMinutes.peakMb;
  run('capped-lru', forever, { capMb, victims: leastRecentlyUsed() });
  const gdsf = (): VictimRule => greedyDual(timeline.functions, costs.parked);
  run('capped-fixed-10min', fixed(10), { capMb, victims: gdsf() });
  run('capped-gdsf', forever, { capMb, victims: gdsf() });
  const oursCapped = run('capped-adaptive', adaptive, { capMb, victims: gdsf() });
  const best = run('capped-clairvoyant', forever, { capMb, victims: clairvoyant(timeline) });
  const ratios = {
    'cold/fixed-10min': ours.cold / tenMinutes.cold,
    'idle/fixed-10min': ours.idleGbHours / tenMinutes.idleGbHours,
    'capped-cold/clairvoyant': oursCapped.cold / best.cold,
    'capped-cold/lower-bound': oursCapped.cold / leastColdStarts(timeline, capMb),
    ...heldOut(trace, options),
  };
  return { rows, ratios: rounded(ratios), budgets: promises(ratios) };
}

/**
 * The policies' parameters are from the literature, none was fitted. Whether the result is luck of
 * this trace shows on parts of it that have no function, or no minute, in common.
 */
function heldOut({ functions, minutes }: Trace, options: KeepAliveOptions): Record<string, number> {
  const half = Math.floor(minutes / 2);
  const during = (from: number, to: number): TraceFunction[] =>
    functions
      .map((fn) => ({ ...fn, calls: fn.calls.slice(from, to) }))
      .filter(({ calls }) => calls.some(Boolean));
  const parts: [name: string, functions: TraceFunction[], minutes: number][] = [
    ['odd-functions', functions.filter((_, index) => index % 2 === 1), minutes],
    ['even-functions', functions.filter((_, index) => index % 2 === 0), minutes],
    ['first-half', during(0, half), half],
    ['second-half', during(half, minutes), minutes - half],
    ['timers-only', functions.filter(({ isTimer }) => isTimer), minutes],
    ['without-timers', functions.filter(({ isTimer }) => !isTimer), minutes],
  ];
  const ratios: Record<string, number> = {};
  for (const [name, part, length] of parts) {
    if (part.length === 0) continue;
    options.progress(`${name}, ${part.length} functions`);
    const timeline = timelineOf(part, length, options);
    const limits = { ...uncapped(timeline, options.costs), costs: options.costs };
    const usual = replay(timeline, { keepAlive: fixed(10), ...limits });
    const ours = replay(timeline, { keepAlive: adaptive, ...limits });
    ratios[`cold/fixed-10min, ${name}`] = ours.cold / usual.cold;
    ratios[`idle/fixed-10min, ${name}`] = ours.idleGbHours / usual.idleGbHours;
  }
  return ratios;
}

function timelineOf(
  functions: readonly TraceFunction[],
  minutes: number,
  { model, seed }: KeepAliveOptions,
): Timeline {
  return makeTimeline(functions, { model, seed, minutes });
}

function uncapped(timeline: Timeline, costs: StartCosts): { capMb: number; victims: VictimRule } {
  return { capMb: Infinity, victims: greedyDual(timeline.functions, costs.parked) };
}

function rowOf(
  name: string,
  result: ReplayResult,
  { costs, capMb }: { costs: StartCosts; capMb: number | undefined },
): KeepAliveRow {
  const { calls, cold, parkedStarts, refused, ...rest } = result;
  const forked = cold - parkedStarts - refused;
  // From the quickest on: hot calls wait for nothing.
  const at = (share: number): number => {
    const slower = calls * (1 - share);
    if (forked > slower) return costs.forked;
    return forked + parkedStarts > slower ? costs.parked : 0;
  };
  return {
    name,
    unit: 'ms',
    p50: at(0.5),
    p95: at(0.95),
    p99: at(0.99),
    n: calls,
    cold,
    parkedStarts,
    refused,
    ...rest,
    coldShare: cold / calls,
    meanPenaltyMs: rest.penaltyMs / calls,
    ...(capMb === undefined ? {} : { capMb }),
  };
}

function promises(ratios: Record<string, number>): Budget[] {
  const atMost: [name: string, limit: number][] = [
    ['cold/fixed-10min', 1],
    ['idle/fixed-10min', 0.75],
    ['capped-cold/clairvoyant', 1.3],
  ];
  return atMost.map(([what, limit]) => {
    return { what, value: ratios[what] ?? NaN, unit: '', atMost: limit };
  });
}

function rounded(ratios: Record<string, number>): Record<string, number> {
  const entries = Object.entries(ratios).filter(([, ratio]) => Number.isFinite(ratio));
  return Object.fromEntries(entries.map(([name, ratio]) => [name, Number(ratio.toPrecision(4))]));
}
