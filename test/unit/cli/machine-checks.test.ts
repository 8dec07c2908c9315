import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkMachine, kernel, node } from '../../../host/cli/machine-checks.ts';

test('kernels are told apart by what they lack', () => {
  assert.equal(kernel('6.18.44-fc').status, 'ok');
  assert.equal(kernel('6.18.44-fc').detail, '6.18.44-fc');
  assert.match(kernel('6.1.0-31-amd64').detail, /before 6\.8/);
  assert.equal(kernel('5.12.0').status, 'ok');
  assert.equal(kernel('5.10.0-34-amd64').status, 'fail');
  assert.equal(kernel('4.19.0').status, 'fail');
});

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
