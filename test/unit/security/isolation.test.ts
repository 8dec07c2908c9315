import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isolationLayerNames } from '../../../host/base/isolation.ts';
import { isolationHere, requireLayers } from '../../../host/security/isolation.ts';

const here = isolationHere();

test('every layer is enforced, or says why not', () => {
  assert.deepEqual(Object.keys(here).toSorted(), [...isolationLayerNames].toSorted());
  for (const [name, state] of Object.entries(here))
    assert.match(state, /^(enforced|unavailable: \w.+)$/, name);
});

test('a host without a layer that is required does not start functions', () => {
  requireLayers(here, ['seccomp', 'namespaces']);
  const without = { ...here, apparmor: 'unavailable: not active in this kernel' } as const;
  requireLayers(without, []);
  assert.throws(() => requireLayers(without, ['seccomp', 'apparmor']), {
    code: 'host.unsupported',
    message: /"apparmor" is unavailable: not active in this kernel.*requireLayers/,
  });
});
