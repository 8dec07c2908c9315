import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { respondTo } from '../../../../host/pool/policy/pressure.ts';

const GiB = 2 ** 30;
const memoryBytes = 4 * GiB;
const atEase = {
  cpuSome: 0,
  memorySome: 0,
  memoryFull: 0,
  memoryBytes,
  availableBytes: memoryBytes,
};
const tight = { ...atEase, availableBytes: 0.2 * memoryBytes };

test('at ease nothing is given up', () => {
  assert.deepEqual(respondTo(atEase), { refillShare: 1, idleShare: 0 });
});

test('a busy CPU slows refills, and touches no memory', () => {
  assert.deepEqual(respondTo({ ...atEase, cpuSome: 100 }), { refillShare: 0.1, idleShare: 0 });
});

test('want of memory ends refills and gives back idle memory', () => {
  assert.deepEqual(respondTo(tight), { refillShare: 1, idleShare: 0 });
  assert.deepEqual(respondTo({ ...tight, memorySome: 20 }), { refillShare: 0, idleShare: 0.5 });
  assert.deepEqual(respondTo({ ...tight, memoryFull: 10 }), { refillShare: 0, idleShare: 0.5 });
});

test('who stalls in a limit of its own, beside memory to spare, costs nobody anything', () => {
  const stalling = { ...atEase, memorySome: 100, memoryFull: 100 };
  assert.deepEqual(respondTo(stalling), { refillShare: 1, idleShare: 0 });
});

test('memory that nears its end is given back before anybody stalls', () => {
  const left = (share: number) => respondTo({ ...atEase, availableBytes: share * memoryBytes });
  assert.deepEqual(left(0.08), { refillShare: 1, idleShare: 0 });
  assert.deepEqual(left(0.04), { refillShare: 0, idleShare: 0.5 });
  // Of a large machine no more than a small one needs.
  const large = { ...atEase, memoryBytes: 1024 * GiB };
  assert.equal(respondTo({ ...large, availableBytes: GiB }).idleShare, 0);
  assert.equal(respondTo({ ...large, availableBytes: GiB / 2 }).idleShare, 0.5);
});

test('more pressure never gives up less', () => {
  const percent = fc.double({ min: 0, max: 100, noNaN: true });
  const pressure = fc.record({
    cpuSome: percent,
    memorySome: percent,
    memoryFull: percent,
    memoryBytes: fc.constant(memoryBytes),
    availableBytes: fc.nat(memoryBytes),
  });
  fc.assert(
    fc.property(pressure, pressure, (one, more) => {
      const less = respondTo(one);
      const response = respondTo({
        cpuSome: Math.max(one.cpuSome, more.cpuSome),
        memorySome: Math.max(one.memorySome, more.memorySome),
        memoryFull: Math.max(one.memoryFull, more.memoryFull),
        memoryBytes,
        availableBytes: Math.min(one.availableBytes, more.availableBytes),
      });
      assert.ok(response.refillShare <= less.refillShare && response.refillShare >= 0);
      assert.ok(response.idleShare >= less.idleShare && response.idleShare <= 1);
    }),
  );
});
