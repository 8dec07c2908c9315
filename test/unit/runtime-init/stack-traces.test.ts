import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { installStackTraces } from '../../../runtime-init/stack-traces.ts';

const saved = Object.getOwnPropertyDescriptor(Error, 'prepareStackTrace');
after(() => {
  if (saved === undefined) Reflect.deleteProperty(Error, 'prepareStackTrace');
  else Object.defineProperty(Error, 'prepareStackTrace', saved);
});

test('a stack outside the bundle reads as Node.js writes it', () => {
  installStackTraces();
  const { stack = '' } = new TypeError('as usual');
  const [first, second] = stack.split('\n');
  assert.equal(first, 'TypeError: as usual');
  assert.match(second ?? '', /^    at .*stack-traces\.test\.ts:\d+:\d+\)?$/);
});

test('an error that cannot be read still has a stack', () => {
  installStackTraces();
  const hostile = new Error('x');
  Object.defineProperty(hostile, 'message', {
    get: () => {
      throw new Error('no');
    },
  });
  const holder: { stack?: string } = hostile;
  Error.captureStackTrace(holder);
  assert.match(holder.stack ?? '', /^Error\n    at /);
});
