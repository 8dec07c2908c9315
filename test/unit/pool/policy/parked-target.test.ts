import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ParkedTarget } from '../../../../host/pool/policy/parked-target.ts';

const usual = { min: 4, max: 64 };

test('without demand there are as many as configured', () => {
  assert.equal(new ParkedTarget().target(0, usual), 4);
});

test('a burst raises it at once, and it falls again within minutes', () => {
  const parked = new ParkedTarget();
  for (let start = 0; start < 120; start++) parked.started(1000);
  assert.ok(parked.target(1000, usual) >= 24, `${parked.target(1000, usual)} after the burst`);
  assert.ok(parked.target(60_000, usual) < 10);
  assert.equal(parked.target(20 * 60_000, usual), 4);
});

test('a steady rate keeps what one second of it takes, and a margin', () => {
  const parked = new ParkedTarget();
  for (let ms = 0; ms < 300_000; ms += 100) parked.started(ms);
  const target = parked.target(300_000, { min: 0, max: 1000 });
  assert.ok(target >= 10 && target <= 18, `${target} for 10 a second`);
});

test('it stays within its bounds and never grows without starts', () => {
  const gaps = fc.array(fc.nat(30_000), { maxLength: 200 });
  fc.assert(
    fc.property(gaps, fc.nat(50), fc.nat(50), (afterMs, min, more) => {
      const parked = new ParkedTarget();
      const limits = { min, max: min + more };
      let nowMs = 0;
      for (const each of afterMs) parked.started((nowMs += each));
      let before = parked.target(nowMs, limits);
      for (let ms = 0; ms < 600_000; ms += 20_000) {
        const target = parked.target(nowMs + ms, limits);
        assert.ok(target >= min && target <= min + more && target <= before);
        before = target;
      }
    }),
  );
});
