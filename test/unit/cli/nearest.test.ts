import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { editDistance, nearest } from '../../../host/cli/nearest.ts';

const words = ['deploy', 'invoke', 'ls', 'rm', 'versions', 'rollback', 'logs', 'trace', 'top'];

test('a slip of the finger finds its word', () => {
  assert.equal(nearest('depoly', words), 'deploy');
  assert.equal(nearest('rollbak', words), 'rollback');
  assert.equal(nearest('l', words), 'ls');
  assert.equal(nearest('sl', words), 'ls');
  assert.equal(nearest('version', words), 'versions');
});

test('what is far from everything finds nothing', () => {
  assert.equal(nearest('kubernetes', words), undefined);
  assert.equal(nearest('', words), undefined);
});

test('the distance is a distance', () => {
  const short = fc.string({ maxLength: 8 });
  fc.assert(
    fc.property(short, short, (one, other) => {
      const there = editDistance(one, other);
      assert.equal(there, editDistance(other, one));
      assert.equal(there === 0, one === other);
      assert.ok(there >= Math.abs(one.length - other.length));
      assert.ok(there <= Math.max(one.length, other.length));
    }),
  );
});
