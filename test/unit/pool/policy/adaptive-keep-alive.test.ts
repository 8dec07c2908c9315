import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  AdaptiveKeepAlive,
  type KeepAliveWindow,
} from '../../../../host/pool/policy/adaptive-keep-alive.ts';

const minuteMs = 60_000;

function windowAfter(idleMinutes: readonly number[]): KeepAliveWindow {
  const keepAlive = new AdaptiveKeepAlive();
  for (const minutes of idleMinutes) keepAlive.observe(minutes * minuteMs);
  const { fromMs, untilMs } = keepAlive.window;
  return { fromMs: fromMs / minuteMs, untilMs: untilMs / minuteMs };
}

test('as long as nothing is known, an instance is kept for ten minutes', () => {
  assert.deepEqual(windowAfter([]), { fromMs: 0, untilMs: 10 });
  assert.deepEqual(windowAfter([3]), { fromMs: 0, untilMs: 10 });
  assert.deepEqual(windowAfter([3, 50, 7]), { fromMs: 0, untilMs: 10 });
});

test('a function that is called all the time is kept for a little more than a minute', () => {
  assert.deepEqual(windowAfter(Array(100).fill(0.01)), { fromMs: 0, untilMs: 1.1 });
});

test('between regular calls nothing is kept, and an instance is there for the next one', () => {
  const { fromMs, untilMs } = windowAfter(Array(20).fill(30));
  assert.ok(fromMs > 26 && fromMs <= 27, `from ${fromMs}`);
  assert.ok(untilMs >= 33 && untilMs < 34, `until ${untilMs}`);
});

test('two equal idle times show a timer, however rare it is', () => {
  assert.deepEqual(windowAfter([60, 60]), { fromMs: 51, untilMs: 69 });
  assert.deepEqual(windowAfter([1440, 1440]), { fromMs: 1430, untilMs: 1450 });
  assert.deepEqual(windowAfter([1440, 1300]), { fromMs: 0, untilMs: 10 });
});

test('a window is never longer than 20 minutes, whatever happened', () => {
  const idleMinutes = fc.array(fc.double({ min: 0, max: 5000, noNaN: true }), { maxLength: 60 });
  fc.assert(
    fc.property(idleMinutes, (minutes) => {
      const { fromMs, untilMs } = windowAfter(minutes);
      assert.ok(fromMs === 0 || fromMs >= 1, 'not worth ending');
      assert.ok(untilMs > fromMs && untilMs - fromMs <= 20 + 1e-9, `${fromMs} to ${untilMs}`);
    }),
  );
});

test('after regular idle times the next call finds an instance', () => {
  fc.assert(
    fc.property(fc.nat(2000), fc.nat(40), (period, count) => {
      const { fromMs, untilMs } = windowAfter(Array(count + 2).fill(period));
      assert.ok(fromMs <= period && period < untilMs);
    }),
  );
});
