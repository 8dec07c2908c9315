import assert from 'node:assert/strict';
import { test } from 'node:test';
import { limits } from '../../../host/doctor.ts';

test('limits that cannot be set here are named', () => {
  const all = { cpuBurst: true, memoryHigh: true, io: true };
  assert.equal(limits(all).status, 'ok');
  const { status, detail } = limits({ ...all, memoryHigh: false });
  assert.equal(status, 'warn');
  assert.match(detail, /but not memoryHighMb \(cgroup v2\)$/);
});
