import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Refusals } from '../../../host/sandbox/refusals.ts';

test('a refused call is said once, however often it is made', () => {
  const said: string[] = [];
  const refusals = new Refusals((text) => said.push(text));
  for (const name of ['ptrace', 'mount', 'ptrace', 'ptrace']) refusals.add(name);
  assert.deepEqual(said, [
    'Refused: the system call "ptrace" is not in the seccomp profile\n',
    'Refused: the system call "mount" is not in the seccomp profile\n',
  ]);
});

test('some are answered at once, a flood every 5 ms, and after a while at once again', () => {
  let nowMs = 1000;
  const refusals = new Refusals(
    () => undefined,
    () => nowMs,
  );
  const waits = Array.from({ length: 103 }, () => refusals.add('ptrace'));
  assert.deepEqual(waits.slice(0, 100), Array(100).fill(0));
  assert.deepEqual(waits.slice(100), [5, 10, 15]);
  nowMs += 515;
  assert.equal(refusals.add('ptrace'), 0);
});
