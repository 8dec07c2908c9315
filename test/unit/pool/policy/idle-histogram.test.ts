import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { IdleHistogram } from '../../../../host/pool/policy/idle-histogram.ts';

const minutes = (count: number): number => count * 60_000;
const histogramOf = (idleMs: readonly number[]): IdleHistogram => {
  const histogram = new IdleHistogram();
  for (const each of idleMs) histogram.record(each);
  return histogram;
};

test('few idle times, or mostly very long ones, tell nothing', () => {
  assert.equal(new IdleHistogram().isTelling, false);
  assert.equal(histogramOf([1, 2, 3, 4].map(minutes)).isTelling, false);
  assert.equal(histogramOf([5, 5, 5, 5, 5].map(minutes)).isTelling, true);
  assert.equal(histogramOf([5, 5, 5, 5, 5, 300, 300, 300, 300, 300].map(minutes)).isTelling, true);
  const mostlyLong = [5, 5, 5, 5, 5, 300, 300, 300, 300, 300, 300];
  assert.equal(histogramOf(mostlyLong.map(minutes)).isTelling, false);
});

test('idle times spread over all bins tell nothing', () => {
  const growing = Array.from({ length: 500 }, (_, step) => minutes(1.0115 ** step));
  assert.ok(Math.max(...growing) > minutes(239));
  assert.equal(histogramOf(growing).isTelling, false);
});

test('the range has the share of the samples that was asked for', () => {
  const sample = fc.integer({ min: 0, max: minutes(239) });
  fc.assert(
    fc.property(fc.array(sample, { minLength: 1, maxLength: 300 }), (idleMs) => {
      const { headMs, tailMs } = histogramOf(idleMs).range({ head: 0.05, tail: 0.99 });
      const below = idleMs.filter((one) => one < headMs).length;
      const within = idleMs.filter((one) => one < tailMs).length;
      assert.ok(headMs < tailMs);
      assert.ok(below < 0.05 * idleMs.length, 'too many before the head');
      assert.ok(within >= 0.99 * idleMs.length, 'too many after the tail');
    }),
  );
});

test('what was long ago weighs less than what is new', () => {
  const histogram = new IdleHistogram();
  for (let count = 0; count < 200_000; count++) histogram.record(minutes(3));
  for (let count = 0; count < 70_000; count++) histogram.record(minutes(30));
  const { headMs } = histogram.range({ head: 0.5, tail: 0.99 });
  assert.ok(headMs > minutes(28) && headMs <= minutes(30));
});
