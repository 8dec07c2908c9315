import assert from 'node:assert/strict';
import { test } from 'node:test';
import { limits, outOfMemory } from '../../../host/doctor.ts';

test('limits that cannot be set here are named', () => {
  const all = { cpuBurst: true, memoryHigh: true, io: true };
  assert.equal(limits(all).status, 'ok');
  const { status, detail } = limits({ ...all, memoryHigh: false });
  assert.equal(status, 'warn');
  assert.match(detail, /but not memoryHighMb \(cgroup v2\)$/);
});

test('a host that may not protect itself says so', () => {
  assert.equal(outOfMemory(-900).status, 'ok');
  assert.equal(outOfMemory(-1000).status, 'ok');
  const { status, detail } = outOfMemory(0);
  assert.equal(status, 'warn');
  assert.match(detail, /score of 0: it needs CAP_SYS_RESOURCE/);
});
