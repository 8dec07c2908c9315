import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ParkedTargets } from '../../../host/pool/parked-targets.ts';
import { trustKey } from '../../../host/zygote/trust-class.ts';
import { poolFunction } from '../../support/fake-pool.ts';

const ours = poolFunction('ours');
const theirs = poolFunction('theirs', { tenant: 'a', parked: 2 });
const executed = poolFunction('executed', { isolation: 'exec' });

function countsOf(targets: ParkedTargets, functions = [ours, theirs, executed]) {
  const wishes = targets.wishes(functions, 0);
  return Object.fromEntries(wishes.map(({ trust, count }) => [trustKey(trust), count]));
}

test('each class has what its functions ask for, the default one what the host keeps', () => {
  const targets = new ParkedTargets({ parked: 4, parkedMax: 64 });
  assert.deepEqual(countsOf(targets), { 'fork/default': 4, 'fork/a': 2, 'exec/default': 0 });
  assert.deepEqual(countsOf(targets, [ours]), { 'fork/default': 4 });
});

test('what starts often has more, all together no more than the host keeps at most', () => {
  const targets = new ParkedTargets({ parked: 4, parkedMax: 10 });
  for (let count = 0; count < 1000; count++)
    for (const fn of [theirs, executed]) targets.started(fn, 0);
  assert.deepEqual(countsOf(targets), { 'fork/default': 4, 'fork/a': 6, 'exec/default': 0 });
});

test('without any to keep there are none, however often something starts', () => {
  const targets = new ParkedTargets({ parked: 0, parkedMax: 10 });
  for (let count = 0; count < 1000; count++) targets.started(ours, 0);
  assert.deepEqual(countsOf(targets, [ours]), { 'fork/default': 0 });
});

test('there are no more than there is room for; what functions have asked for is said', () => {
  const targets = new ParkedTargets({ parked: 4, parkedMax: 64 });
  const told = targets.wishes([ours, theirs], 0, 5).map(({ count, reserved }) => [count, reserved]);
  assert.deepEqual(told, [
    [4, 0],
    [1, 2],
  ]);
});
