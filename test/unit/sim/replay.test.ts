import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decode, makeTimeline, type Timeline } from '../../sim/arrivals.ts';
import {
  clairvoyant,
  greedyDual,
  leastColdStarts,
  leastRecentlyUsed,
} from '../../sim/baselines.ts';
import { replay, type ReplayOptions, type ReplayResult } from '../../sim/replay.ts';
import type { TraceFunction } from '../../sim/trace.ts';

const minuteMs = 60_000;
const traced = (name: string, changes: Partial<TraceFunction>): TraceFunction => {
  return { name, isTimer: true, calls: [1], durationMs: 1, memoryMb: 100, ...changes };
};
const every = (period: number, minutes: number): number[] =>
  Array.from({ length: minutes }, (_, minute) => (minute % period === 0 ? 1 : 0));

function timelineOf(functions: TraceFunction[], minutes: number, seed = 1): Timeline {
  return makeTimeline(functions, { model: 'calls', seed, minutes });
}

function run(timeline: Timeline, options: Partial<ReplayOptions>): ReplayResult {
  return replay(timeline, {
    keepAlive: { policy: 'fixed', keepMs: 10 * minuteMs },
    capMb: Infinity,
    victims: greedyDual(timeline.functions, 5),
    costs: { parked: 3, forked: 7 },
    ...options,
  });
}

test('a fixed time is too short or long enough for a timer', () => {
  const timeline = timelineOf([traced('timer', { calls: every(5, 60) })], 60);
  const short = run(timeline, { keepAlive: { policy: 'fixed', keepMs: 4 * minuteMs } });
  assert.deepEqual([short.calls, short.cold], [12, 12]);
  const long = run(timeline, {});
  assert.deepEqual([long.cold, long.penaltyMs, long.peakMb], [1, 3, 100]);
});

test('memory is idle from the end of a call until the next, or the end of its time', () => {
  const timeline = timelineOf([traced('once', { calls: every(100, 100), memoryMb: 1024 })], 100);
  const { idleGbHours } = run(timeline, {});
  assert.ok(Math.abs(idleGbHours - 10 / 60) < 2 / 3600, `${idleGbHours} GB-h`);
});

test('the adaptive policy has an instance ready for a rare timer, and keeps none between', () => {
  const timeline = timelineOf([traced('timer', { calls: every(30, 600) })], 600);
  const adaptive = run(timeline, { keepAlive: { policy: 'adaptive' } });
  const fixed = run(timeline, {});
  assert.equal(fixed.cold, 20);
  assert.deepEqual([adaptive.cold, adaptive.prewarmed], [3, 18]);
  assert.ok(adaptive.idleGbHours < 0.7 * fixed.idleGbHours);
});

test('calls that run at the same time need an instance each', () => {
  const calls = [0, 60, 0];
  const timeline = timelineOf([traced('burst', { calls, durationMs: 30_000 })], 3);
  const result = run(timeline, {});
  assert.equal(result.calls, 60);
  assert.ok(result.cold >= 30 && result.cold <= 31, `${result.cold} cold`);
});

test('under a cap idle instances go, busy ones never; without room a call is refused', () => {
  const long = traced('long', { calls: [1, 0, 0, 0], durationMs: 4 * minuteMs, memoryMb: 150 });
  const other = traced('other', { calls: [0, 1, 0, 1] });
  const timeline = timelineOf([long, other], 4);
  const refused = run(timeline, { capMb: 200 });
  assert.deepEqual([refused.refused, refused.cold, refused.evicted], [2, 3, 0]);
  const enough = run(timeline, { capMb: 250 });
  assert.deepEqual([enough.refused, enough.cold], [0, 2]);
});

test('whatever the trace, the cap holds, and nobody beats the bound without starts ahead', () => {
  const fn = fc.record({
    calls: fc.array(fc.nat(2), { minLength: 30, maxLength: 30 }),
    isTimer: fc.boolean(),
    durationMs: fc.integer({ min: 1, max: 90_000 }),
    memoryMb: fc.integer({ min: 1, max: 100 }),
  });
  const cases = fc.property(fc.array(fn, { minLength: 1, maxLength: 8 }), fc.nat(), (all, seed) => {
    const timeline = timelineOf(
      all.map((each, at) => traced(`f${at}`, each)),
      30,
      seed,
    );
    const capMb = 0.5 * run(timeline, {}).peakMb;
    const forever = { policy: 'fixed', keepMs: Infinity } as const;
    const rules = [leastRecentlyUsed(), clairvoyant(timeline), greedyDual(timeline.functions, 5)];
    for (const victims of rules) {
      const result = run(timeline, { keepAlive: forever, capMb, victims });
      assert.ok(result.peakMb <= capMb);
      if (result.refused === 0) assert.ok(result.cold >= leastColdStarts(timeline, capMb));
    }
  });
  fc.assert(cases, { numRuns: 40 });
});

test('the timeline has each call of the trace in its minute, and is the same each time', () => {
  const functions = [
    traced('a', { calls: [3, 0, 2], isTimer: false }),
    traced('b', { calls: [0, 1] }),
  ];
  const timeline = timelineOf(functions, 3, 7);
  const starts = [...timeline.events].map(decode).filter(({ isStart }) => isStart);
  const minutes = starts.map((one) => `${one.functionIndex}@${Math.floor(one.timeMs / minuteMs)}`);
  assert.deepEqual(minutes.sort(), ['0@0', '0@0', '0@0', '0@2', '0@2', '1@1']);
  assert.deepEqual(timelineOf(functions, 3, 7).events, timeline.events);
});
