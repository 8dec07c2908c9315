import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { InstanceDemand } from '../../../../host/pool/policy/instance-demand.ts';

const minuteMs = 60_000;
const fixed = (keepMs: number) => new InstanceDemand({ policy: 'fixed', keepMs });

test('instances are wanted while they are busy and for the fixed time after', () => {
  const demand = fixed(1000);
  demand.taken(0);
  demand.taken(0);
  demand.freed(500, 0);
  assert.equal(demand.wanted(1499), 2);
  assert.equal(demand.wanted(1500), 1);
  demand.freed(99_000, 0);
  assert.deepEqual(
    [99_000, 99_999, 100_000].map((ms) => demand.wanted(ms)),
    [1, 1, 0],
  );
});

test('nothing is kept with a time of 0, all with an infinite one', () => {
  for (const [keepMs, wanted] of [
    [0, 0],
    [Infinity, 1],
  ] as const) {
    const demand = fixed(keepMs);
    demand.taken(0);
    demand.freed(1, 0);
    assert.equal(demand.wanted(1e9), wanted);
  }
});

test('after regular calls an instance is expected shortly before the next, once', () => {
  const demand = new InstanceDemand({ policy: 'adaptive' });
  for (let call = 0; call < 10; call++) {
    demand.taken(call * 30 * minuteMs);
    demand.freed(call * 30 * minuteMs, 0);
  }
  const at = (minutes: number): number => (9 * 30 + minutes) * minuteMs;
  assert.equal(demand.wanted(at(1)), 0);
  assert.equal(demand.takeExpected(at(26), 0), 0);
  assert.equal(demand.wanted(at(28)), 1);
  assert.equal(demand.takeExpected(at(28), 0), 1);
  assert.equal(demand.takeExpected(at(29), 0), 0);
  assert.equal(demand.wanted(at(35)), 0);
});

test('a second instance that is needed seldom does not change how the first is kept', () => {
  const demand = new InstanceDemand({ policy: 'adaptive' });
  for (let call = 0; call < 60; call++) {
    demand.taken(call * 1000);
    if (call === 30) {
      demand.taken(call * 1000);
      demand.freed(call * 1000 + 1, 0);
    }
    demand.freed(call * 1000 + 2, 0);
  }
  assert.deepEqual(
    [1, 3, 12].map((minutes) => demand.wanted(minutes * minuteMs + 59_002)),
    [2, 1, 0],
  );
  assert.deepEqual([demand.use(1).count, demand.use(2).count, demand.use(3).count], [60, 1, 0]);
});

test('an instance made without a call is kept as if it had been used', () => {
  const demand = fixed(1000);
  demand.added(1, 0, 0);
  demand.added(2, 500, 0);
  assert.deepEqual(
    [999, 1000, 1499, 1500].map((ms) => demand.wanted(ms)),
    [2, 1, 1, 0],
  );
});

test('whatever calls come, busy instances are wanted, and never more than were ever busy', () => {
  const step = fc.record({ takes: fc.boolean(), afterMs: fc.nat(20 * minuteMs) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), fc.boolean(), (steps, adaptive) => {
      const demand = adaptive ? new InstanceDemand({ policy: 'adaptive' }) : fixed(5 * minuteMs);
      let [nowMs, busy, most] = [0, 0, 0];
      for (const { takes, afterMs } of steps) {
        nowMs += afterMs;
        const wanted = demand.wanted(nowMs);
        assert.ok(wanted >= busy && wanted <= most);
        assert.ok(demand.takeExpected(nowMs, 0) <= wanted - busy);
        if (takes) demand.taken(nowMs);
        else if (busy > 0) demand.freed(nowMs, 0);
        busy = takes ? busy + 1 : Math.max(busy - 1, 0);
        most = Math.max(most, busy);
        assert.equal(demand.busy, busy);
      }
    }),
  );
});
