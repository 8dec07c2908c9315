import assert from 'node:assert/strict';
import { closeSync } from 'node:fs';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { makeBell, ringBell } from '../../../host/sys/process.ts';
import { sendMessage, socketPair } from '../../../host/sys/socket.ts';

async function waiter(bell: number, socket: number) {
  const file = new URL('bell-waiter.ts', import.meta.url);
  const thread = new Worker(file, { workerData: { bell, socket } });
  const ended = once(thread, 'exit');
  await once(thread, 'message');
  let awake = false;
  thread.once('message', () => (awake = true));
  return { isAwake: () => awake, ended };
}

test('a bell wakes who waits for it, a message beside it does not', async () => {
  const bell = makeBell();
  const [near, far] = socketPair('stream');
  const { isAwake, ended } = await waiter(bell, far);
  sendMessage(near, Buffer.from('order'));
  await sleep(50);
  assert.equal(isAwake(), false);
  ringBell(bell);
  await ended;
  assert.equal(isAwake(), true);
  for (const fd of [bell, near, far]) closeSync(fd);
});

test('the end of the socket wakes it too', async () => {
  const bell = makeBell();
  const [near, far] = socketPair('stream');
  const { isAwake, ended } = await waiter(bell, far);
  closeSync(near);
  await ended;
  assert.equal(isAwake(), true);
  for (const fd of [bell, far]) closeSync(fd);
});
