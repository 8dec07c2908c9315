import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkMachine, node } from '../../../host/cli/machine-checks.ts';

test('only Node 24 runs a host', () => {
  assert.equal(node('v24.21.0').status, 'ok');
  assert.equal(node('v20.20.2').status, 'fail');
});

test('the machine that runs the tests can run a host', async () => {
  const checks = await checkMachine();
  assert.deepEqual(
    checks.filter(({ status }) => status === 'fail'),
    [],
  );
  assert.ok(checks.every(({ detail }) => detail !== ''));
});
