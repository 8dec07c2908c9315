import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkKernel, kernel } from '../../../host/dispatch/kernel-checks.ts';

test('kernels are told apart by whether overlayfs takes idmapped layers', () => {
  assert.deepEqual(kernel('6.1.0-31-amd64'), {
    name: 'kernel',
    status: 'ok',
    detail: '6.1.0-31-amd64',
  });
  assert.equal(kernel('5.19.0').status, 'ok');
  assert.equal(kernel('5.18.9').status, 'fail');
  assert.equal(kernel('5.10.0-34-amd64').status, 'fail');
  assert.equal(kernel('4.19.0').status, 'fail');
});

test('each mechanism is told of once, and the kernel of the tests has what a host needs', () => {
  const checks = checkKernel();
  const names = checks.map(({ name }) => name);
  assert.equal(new Set(names).size, names.length);
  assert.deepEqual(
    checks.filter(({ status }) => status === 'fail'),
    [],
  );
  assert.ok(checks.every(({ detail }) => detail !== ''));
  const detail = (name: string) => checks.find((check) => check.name === name)?.detail ?? '';
  assert.match(detail('cgroups'), /^(v1|v2|hybrid): .*\bcpu\b.*\bmemory\b.*\bpids\b/);
  assert.match(detail('overlay'), /^lowerdir\+? .*\bmetacopy\b/);
  assert.match(detail('seccomp'), /errno.*API level \d/);
  assert.match(detail('processes'), /^pidfd clone3$/);
});
