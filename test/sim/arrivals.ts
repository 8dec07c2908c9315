/**
 * When calls begin and end. The trace counts calls by the minute and knows no more, so when within
 * its minute a call comes is assumed, from a seed:
 *
 *  - `minutes`: a function has one instance, which serves the calls of a minute one after another,
 *    beginning at a random moment of it. This is the model of the literature, where a function is
 *    called in a minute or not; what happens within one does not count.
 *  - `calls`: every call comes at a random moment of its minute and takes the function's average
 *    time, so instances multiply by chance.
 *
 * In both a timer keeps its second of the minute: that is what timers do.
 */
import { randomFrom } from './random.ts';
import type { TraceFunction } from './trace.ts';

export const arrivalModels = ['minutes', 'calls'] as const;
export type ArrivalModel = (typeof arrivalModels)[number];

export interface Timeline {
  functions: readonly TraceFunction[];
  /** In order of time, as `decode` reads them. */
  events: Float64Array;
  calls: number;
  endMs: number;
}

export interface Event {
  timeMs: number;
  functionIndex: number;
  isStart: boolean;
}

export function makeTimeline(
  functions: readonly TraceFunction[],
  options: { model: ArrivalModel; seed: number; minutes: number },
): Timeline {
  const random = randomFrom(options.seed);
  const keys: number[] = [];
  for (const [functionIndex, fn] of functions.entries()) {
    const visits = options.model === 'calls' ? everyCall(fn, random) : oncePerMinute(fn, random);
    for (const [startMs, endMs] of visits) {
      keys.push(encode({ timeMs: startMs, functionIndex, isStart: true }));
      keys.push(encode({ timeMs: endMs, functionIndex, isStart: false }));
    }
  }
  const calls = keys.length / 2;
  const endMs = options.minutes * minuteMs;
  return { functions, events: Float64Array.from(keys).sort(), calls, endMs };
}

/** One number an event: they are sorted as numbers, an end before a start of the same time. */
function encode({ timeMs, functionIndex, isStart }: Event): number {
  return (timeMs * functionsMax + functionIndex) * 2 + Number(isStart);
}

export function decode(key: number): Event {
  const isStart = key % 2 === 1;
  const rest = (key - Number(isStart)) / 2;
  const functionIndex = rest % functionsMax;
  return { timeMs: (rest - functionIndex) / functionsMax, functionIndex, isStart };
}

type Visit = [startMs: number, endMs: number];

function* everyCall(fn: TraceFunction, random: () => number): Generator<Visit> {
  const phase = random();
  const durationMs = wholeMs(fn.durationMs);
  for (const [minute, count] of fn.calls.entries())
    for (let call = 0; call < count; call++) {
      const within = fn.isTimer ? (phase + call / count) % 1 : random();
      const startMs = Math.floor((minute + within) * minuteMs);
      yield [startMs, startMs + durationMs];
    }
}

function* oncePerMinute(fn: TraceFunction, random: () => number): Generator<Visit> {
  const phase = random();
  let last: Visit | undefined;
  for (const [minute, count] of fn.calls.entries()) {
    if (count === 0) continue;
    const startMs = Math.floor((minute + (fn.isTimer ? phase : random())) * minuteMs);
    // One instance: what would overlap with the next visit ends there.
    if (last !== undefined) yield [last[0], Math.min(last[1], startMs)];
    last = [startMs, startMs + Math.min(wholeMs(fn.durationMs * count), minuteMs)];
  }
  if (last !== undefined) yield last;
}

function wholeMs(durationMs: number): number {
  return Math.max(Math.round(durationMs), 1);
}

const minuteMs = 60_000;
/** With the milliseconds of a month still exact. */
const functionsMax = 2 ** 20;
