import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KernelTypes } from '../../../host/sys/bpf.ts';

test('types of the kernel tell where a member is', () => {
  using types = KernelTypes.open();
  // Both are part of what every program on Linux knows.
  assert.equal(types.offsetOf('timespec64', 'tv_nsec'), 8);
  assert.equal(types.offsetOf('iovec', 'iov_len'), 8);
  assert.throws(() => types.offsetOf('iovec', 'nowhere'), /no member "iovec\.nowhere"/);
  assert.throws(() => types.offsetOf('no_such_thing', 'a'), /"no_such_thing"/);
  assert.throws(() => types.module('hatch_no_such_module'), /"hatch_no_such_module"/);
});
