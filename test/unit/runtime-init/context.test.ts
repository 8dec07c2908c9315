import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import { CallContext } from '../../../runtime-init/context.ts';

function contextOf(timeoutMs: number): CallContext {
  const specialisation = {
    functionName: 'f',
    functionVersion: '3',
    entry: '/function/index.cjs',
    memoryMb: 128,
    seccomp: 'node' as const,
    env: {},
  };
  return new CallContext(specialisation, {
    requestId: 'r',
    subject: 'hatch.fn.f',
    attempt: 1,
    timeoutMs,
  });
}

test('it says what the call is, under the names of AWS Lambda too', () => {
  const context = contextOf(1000);
  assert.equal(context.awsRequestId, context.requestId);
  assert.equal(context.functionName, 'f');
  assert.equal(context.functionVersion, '3');
  assert.equal(context.memoryLimitInMB, 128);
  assert.deepEqual(context.headers, {});
  context.end();
});

test('the remaining time runs down to 0 and no further', async () => {
  const context = contextOf(30);
  const first = context.getRemainingTimeInMillis();
  assert.ok(first > 0 && first <= 30);
  await sleep(40);
  assert.equal(context.getRemainingTimeInMillis(), 0);
  assert.equal(context.timedOut, true);
});

test('the signal aborts when the time is up, once, with a TimeoutError', async () => {
  const context = contextOf(15);
  const { signal } = context;
  let aborts = 0;
  signal.addEventListener('abort', () => aborts++);
  assert.equal(signal.aborted, false);
  await sleep(40);
  context.abort('caller');
  assert.equal(aborts, 1);
  assert.ok(signal.reason instanceof DOMException && signal.reason.name === 'TimeoutError');
  assert.equal(context.signal, signal);
});

test('who first looks at the signal after the abort finds it aborted', () => {
  const context = contextOf(10_000);
  context.abort('caller');
  const { signal } = context;
  assert.equal(signal.aborted, true);
  assert.ok(signal.reason instanceof DOMException && signal.reason.name === 'AbortError');
  assert.equal(context.timedOut, true);
});

test('a call that has ended keeps no timer', async () => {
  const context = contextOf(10);
  const { signal } = context;
  context.end();
  await sleep(30);
  assert.equal(signal.aborted, false);
});
