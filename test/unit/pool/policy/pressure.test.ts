import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { respondTo } from '../../../../host/pool/policy/pressure.ts';

const atEase = { cpuSome: 0, memorySome: 0, memoryFull: 0 };

test('at ease nothing is given up', () => {
  assert.deepEqual(respondTo(atEase), { refillShare: 1, idleShare: 0 });
});

test('a busy CPU slows refills, and touches no memory', () => {
  assert.deepEqual(respondTo({ ...atEase, cpuSome: 100 }), { refillShare: 0.1, idleShare: 0 });
});

test('want of memory ends refills and gives back idle memory', () => {
  assert.deepEqual(respondTo({ ...atEase, memorySome: 20 }), { refillShare: 0, idleShare: 0.5 });
  assert.deepEqual(respondTo({ ...atEase, memoryFull: 10 }), { refillShare: 0, idleShare: 0.5 });
});

test('more pressure never gives up less', () => {
  const percent = fc.double({ min: 0, max: 100, noNaN: true });
  const pressure = fc.record({ cpuSome: percent, memorySome: percent, memoryFull: percent });
  fc.assert(
    fc.property(pressure, pressure, (one, more) => {
      const less = respondTo(one);
      const response = respondTo({
        cpuSome: Math.max(one.cpuSome, more.cpuSome),
        memorySome: Math.max(one.memorySome, more.memorySome),
        memoryFull: Math.max(one.memoryFull, more.memoryFull),
      });
      assert.ok(response.refillShare <= less.refillShare && response.refillShare >= 0);
      assert.ok(response.idleShare >= less.idleShare && response.idleShare <= 1);
    }),
  );
});
