import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  checkLimits,
  type CgroupLimits,
  quotaUsOf,
  sharesOfWeight,
} from '../../../host/cgroup/limits.ts';

test('a ratio of weights is the same ratio of v1 shares, of which every kernel takes each', () => {
  assert.equal(sharesOfWeight(100), 1024);
  for (let weight = 1; weight <= 10_000; weight += 1) {
    const shares = sharesOfWeight(weight);
    assert.ok(shares >= 2 && shares <= 262_144);
    assert.ok(Math.abs(shares / 1024 / (weight / 100) - 1) < 0.025, `weight ${weight}`);
  }
});

test('a quota is cores times the period', () => {
  assert.equal(quotaUsOf(0.5), 50_000);
  assert.equal(quotaUsOf(2), 200_000);
  assert.equal(quotaUsOf(0.333), 33_300);
});

const everything = { cpuBurst: true, memoryHigh: true, io: true, ioBuffered: true };
const plain = { memoryBytes: 2 ** 26, pidsMax: 10 };

test('limits that contradict each other or mean nothing are refused by name', () => {
  const bad: [limit: string, limits: Partial<CgroupLimits>][] = [
    ['memoryHighBytes', { memoryHighBytes: plain.memoryBytes + 1 }],
    ['memoryHighBytes', { memoryHighBytes: 0 }],
    ['cpuBurstCores', { cpuBurstCores: 0.5 }],
    ['cpuBurstCores', { cpuBurstCores: 0.6, cpuCores: 0.5 }],
    ['cpuBurstCores', { cpuBurstCores: -0.1, cpuCores: 0.5 }],
    ['cpuBurstCores', { cpuBurstCores: Number.NaN, cpuCores: 0.5 }],
    ['io', { io: { readBytesPerSecond: 0 } }],
    ['io', { io: { writeOpsPerSecond: 1.5 } }],
  ];
  for (const [limit, change] of bad)
    assert.throws(() => checkLimits({ ...plain, ...change }, everything), {
      code: 'host.config_invalid',
      details: { limit, value: Object.values(change.io ?? { value: change[limit as 'io'] })[0] },
    });
});

test('limits that this machine does not have are refused by name, if they are wanted', () => {
  const wanted: [missing: keyof typeof everything, limit: string, Partial<CgroupLimits>][] = [
    ['cpuBurst', 'cpuBurstCores', { cpuCores: 1, cpuBurstCores: 0.5 }],
    ['memoryHigh', 'memoryHighBytes', { memoryHighBytes: 2 ** 25 }],
    ['io', 'io', { io: { readOpsPerSecond: 10 } }],
  ];
  for (const [missing, limit, change] of wanted) {
    const offered = { ...everything, [missing]: false };
    checkLimits({ ...plain, ...change }, everything);
    checkLimits({ ...plain, io: {}, cpuBurstCores: 0 }, offered);
    const refusal = { code: 'host.unsupported', details: { limit } };
    assert.throws(() => checkLimits({ ...plain, ...change }, offered), refusal);
  }
});

test('limits that a kernel takes are accepted, whatever their mix', () => {
  const limits = fc.record(
    {
      memoryBytes: fc.integer({ min: 1024 * 1024, max: Number.MAX_SAFE_INTEGER }),
      pidsMax: fc.integer({ min: 1, max: 4_194_304 }),
      cpuCores: fc.double({ min: 0.01, max: 1024, noNaN: true }),
      cpuWeight: fc.integer({ min: 1, max: 10_000 }),
    },
    { requiredKeys: ['memoryBytes', 'pidsMax'] },
  );
  fc.assert(fc.property(limits, (some) => checkLimits(some, everything)));
});
