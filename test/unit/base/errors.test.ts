import assert from 'node:assert/strict';
import { test } from 'node:test';
import { errorCodes, HatchError, messageOf, toHatchError } from '../../../host/base/errors.ts';

test('every code names its area, has an HTTP status of an error, and who can mend it', () => {
  for (const [code, { status, fault }] of Object.entries(errorCodes)) {
    assert.match(code, /^[a-z]+\.[a-z_]+$/);
    assert.ok(status >= 400 && status <= 599, code);
    assert.ok(fault === 'user' || fault === 'host', code);
  }
});

test('an error carries its code, its facts and its cause', () => {
  const cause = new Error('ENOSPC');
  const error = new HatchError('host.busy', 'Cannot start', { cause, details: { waiting: 3 } });
  assert.equal(error.status, 429);
  assert.equal(error.fault, 'host');
  assert.equal(error.cause, cause);
  assert.deepEqual(error.details, { waiting: 3 });
  assert.deepEqual(new HatchError('host.busy', 'x').details, {});
  assert.ok(!('cause' in new HatchError('host.busy', 'x')));
});

test('whatever is thrown becomes an error with a code; one that has a code keeps it', () => {
  const known = new HatchError('function.oom', 'Too much');
  assert.equal(toHatchError(known, 'host.start_failed'), known);
  assert.equal(toHatchError(new TypeError('no')).code, 'internal.bug');
  const wrapped = toHatchError('just text', 'host.start_failed');
  assert.deepEqual(
    [wrapped.code, wrapped.message, wrapped.cause],
    ['host.start_failed', 'just text', 'just text'],
  );
  assert.equal(messageOf(undefined), 'undefined');
});
