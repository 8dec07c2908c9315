import assert from 'node:assert/strict';
import { test } from 'node:test';
import { expired, victim } from '../../../host/pool/keep-alive.ts';

const idle = (id: string, idleMs: number, keepAliveMs = 1000) => ({ id, idleMs, keepAliveMs });

test('an instance ends when it has been idle for its own keep-alive time', () => {
  const instances = [idle('young', 999), idle('due', 1000), idle('patient', 5000, 6000)];
  assert.deepEqual(expired(instances), ['due']);
  assert.deepEqual(expired([]), []);
  assert.deepEqual(expired([idle('never-kept', 0, 0)]), ['never-kept']);
});

test('for want of room the one that has been idle for longest goes', () => {
  assert.equal(victim([idle('a', 5), idle('b', 70), idle('c', 6)]), 'b');
  assert.equal(victim([]), undefined);
});
