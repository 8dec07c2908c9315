/** The scenario `layers`: which layers of those that are pulled are on the host already. */
import { makeEvictionPolicy } from '../../host/image/policy/eviction-policy.ts';
import type { Budget, Row } from '../bench/report.ts';
import { Belady, declared, declaredRoughly, learnt } from './layer-baselines.ts';
import { kinds } from './layer-kinds.ts';
import { replayPulls, type Expectation, type LayerReplayResult } from './layer-replay.ts';
import type { Pull } from './layer-trace.ts';

export interface LayersOptions {
  /** How many pulls a burst has, which is all that a schedule tells of at a time. */
  window: number;
  progress: (text: string) => void;
}

export interface LayerRow extends Row {
  /** Shares of the pulls, and of their bytes; also what `p50` to `p99` say, for there is one. */
  objectHits: number;
  byteHits: number;
  capacityBytes: number;
  prefetchedBytes: number;
}

export interface LayersReport {
  rows: LayerRow[];
  ratios: Record<string, number>;
  budgets: Budget[];
  uniqueBytes: number;
}

type Replay = (capacityBytes: number) => LayerReplayResult;

/** Of the bytes of all layers together. */
const capacities = [1, 5, 20];

export function simulateLayers(pulls: readonly Pull[], options: LayersOptions): LayersReport {
  const rows: LayerRow[] = [];
  const uniqueBytes = uniqueBytesOf(pulls);
  for (const percent of capacities)
    for (const [name, replay] of Object.entries(contenders(pulls, options.window))) {
      options.progress(`${name}@${percent}`);
      const capacityBytes = Math.floor((uniqueBytes * percent) / 100);
      rows.push(rowOf(`${name}@${percent}`, replay(capacityBytes), { pulls, capacityBytes }));
    }
  const value = (name: string): number => rows.find((row) => row.name === name)?.p50 ?? NaN;
  return {
    rows,
    ratios: {
      'default/lru@5': ratio(value('default@5'), value('lru@5')),
      ...others(pulls, options),
    },
    budgets: [
      { what: 'default@5', value: value('default@5'), unit: '%', atLeast: 50 },
      { what: 'prefetch+pin@5', value: value('prefetch+pin@5'), unit: '%', atLeast: 90 },
    ],
    uniqueBytes,
  };
}

function contenders(pulls: readonly Pull[], window: number): Record<string, Replay> {
  const plain = (name: 'lru' | 'gdsf'): Replay => {
    return (capacityBytes) =>
      replayPulls(pulls, { capacityBytes, policy: makeEvictionPolicy(name) });
  };
  const planned = (
    expected: readonly Expectation[],
    prefetch: 'ahead' | 'late' | 'none',
  ): Replay => {
    const bursts = { expected, pullsEach: window, prefetch };
    return (capacityBytes) =>
      replayPulls(pulls, { capacityBytes, policy: makeEvictionPolicy('gdsf'), bursts });
  };
  return {
    lru: plain('lru'),
    default: plain('gdsf'),
    'learnt+pin': planned(learnt(pulls, window), 'ahead'),
    pin: planned(declared(pulls, window), 'none'),
    'prefetch+pin': planned(declared(pulls, window), 'ahead'),
    'prefetch+pin-late': planned(declared(pulls, window), 'late'),
    'prefetch+pin-rough': planned(declaredRoughly(pulls, window), 'ahead'),
    belady: (capacityBytes) => replayPulls(pulls, { capacityBytes, policy: new Belady(pulls) }),
  };
}

/** No parameter was fitted; whether the result is luck of this trace shows on parts and kinds. */
function others(pulls: readonly Pull[], options: LayersOptions): Record<string, number> {
  const half = Math.floor(pulls.length / 2);
  const made = Object.entries(kinds).map(([name, make]) => [name, make(1)] as const);
  const parts = [
    ['first-half', pulls.slice(0, half)],
    ['second-half', pulls.slice(half)],
    ...made,
  ] as const;
  const ratios: Record<string, number> = {};
  for (const [name, part] of parts) {
    if (part.length === 0) continue;
    options.progress(name);
    const capacityBytes = Math.floor(uniqueBytesOf(part) / 20);
    const all = contenders(part, options.window);
    const hits = (contender: string): number => all[contender]?.(capacityBytes).hits ?? NaN;
    const lru = hits('lru');
    for (const contender of ['default', 'prefetch+pin', 'belady'])
      ratios[`${contender}/lru@5, ${name}`] = ratio(hits(contender), lru);
  }
  return ratios;
}

function rowOf(
  name: string,
  result: LayerReplayResult,
  { pulls, capacityBytes }: { pulls: readonly Pull[]; capacityBytes: number },
): LayerRow {
  const bytes = pulls.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const objectHits = rounded((100 * result.hits) / pulls.length);
  return {
    name,
    unit: '%',
    p50: objectHits,
    p95: objectHits,
    p99: objectHits,
    n: pulls.length,
    objectHits,
    byteHits: rounded((100 * result.hitBytes) / Math.max(bytes, 1)),
    capacityBytes,
    prefetchedBytes: result.prefetchedBytes,
  };
}

function uniqueBytesOf(pulls: readonly Pull[]): number {
  const sizes = new Map(pulls.map(({ digest, sizeBytes }) => [digest, sizeBytes]));
  return [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0);
}

function ratio(top: number, bottom: number): number {
  return rounded(top / bottom);
}

function rounded(value: number): number {
  return Number(value.toPrecision(4));
}
