import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { chooseVictims, GreedyDual } from '../../../host/base/greedy-dual.ts';

const start = { costMs: 5, bytes: 1000 };

test('worth keeping is what is called often, starts slowly, and is small', () => {
  const policy = new GreedyDual();
  const usual = policy.priority({ count: 10, clock: 0 }, start);
  assert.ok(policy.priority({ count: 11, clock: 0 }, start) > usual);
  assert.ok(policy.priority({ count: 10, clock: 0 }, { ...start, costMs: 6 }) > usual);
  assert.ok(policy.priority({ count: 10, clock: 0 }, { ...start, bytes: 2000 }) < usual);
});

test('what was popular long ago goes in the end', () => {
  const policy = new GreedyDual();
  const unit = { costMs: 1, bytes: 1 };
  const formerly = policy.priority({ count: 100, clock: policy.clock }, unit);
  let rounds = 0;
  for (;;) {
    const now = policy.priority({ count: 1, clock: policy.clock }, unit);
    if (now > formerly) break;
    policy.evicted(now);
    rounds++;
  }
  assert.equal(rounds, 100);
});

test('the clock never goes back', () => {
  const policy = new GreedyDual();
  policy.evicted(3);
  policy.evicted(2);
  assert.equal(policy.clock, 3);
});

test('the least worthy go, and one that need not is spared', () => {
  const [a, b, c] = [
    { bytes: 10, priority: 1 },
    { bytes: 500, priority: 2 },
    { bytes: 10, priority: 3 },
  ];
  assert.deepEqual(chooseVictims([c, b, a], 10), [a]);
  assert.deepEqual(chooseVictims([c, b, a], 11), [b]);
  assert.deepEqual(chooseVictims([c, b, a], 510), [a, b]);
  assert.equal(chooseVictims([c, b, a], 521), undefined);
  assert.deepEqual(chooseVictims([a], 0), []);
});

const candidates = fc.array(
  fc.record({ bytes: fc.integer({ min: 1, max: 1000 }), priority: fc.nat(50) }),
  { maxLength: 40 },
);

test('victims are just enough, and refusal means that all would not be', () => {
  fc.assert(
    fc.property(candidates, fc.nat(8000), (idle, bytesWanted) => {
      const victims = chooseVictims(idle, bytesWanted);
      const all = idle.reduce((sum, { bytes }) => sum + bytes, 0);
      if (victims === undefined) return assert.ok(all < bytesWanted);
      const freed = victims.reduce((sum, { bytes }) => sum + bytes, 0);
      assert.ok(freed >= bytesWanted);
      assert.equal(new Set(victims).size, victims.length);
      for (const { bytes } of victims) assert.ok(freed - bytes < bytesWanted, 'one too many');
    }),
  );
});

test('nobody goes while somebody less worthy and as large stays', () => {
  fc.assert(
    fc.property(candidates, fc.nat(8000), (idle, bytesWanted) => {
      const victims = new Set(chooseVictims(idle, bytesWanted) ?? []);
      const staying = idle.filter((one) => !victims.has(one));
      for (const gone of victims)
        for (const one of staying)
          assert.ok(one.priority >= gone.priority || one.bytes < gone.bytes);
    }),
  );
});
