import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import { StartsUnderWay } from '../../../host/base/starts-under-way.ts';

/** Whether what waits for starts to be over has resolved. */
function watch(starts: StartsUnderWay): { isOver: boolean; over: Promise<void> } {
  const watched = { isOver: false, over: Promise.resolve() };
  watched.over = starts.over().then(() => void (watched.isOver = true));
  return watched;
}

test('nobody waits while none is under way', async () => {
  const watched = watch(new StartsUnderWay());
  await Promise.resolve();
  await watched.over;
  assert.equal(watched.isOver, true);
});

test('one that waits goes on when the last of several is over', async () => {
  const starts = new StartsUnderWay();
  starts.begin();
  starts.begin();
  const watched = watch(starts);
  starts.end();
  await sleep(30);
  assert.equal(watched.isOver, false);
  starts.end();
  await watched.over;
});

test('where there is always one under way, it is waited for some time only', async () => {
  const starts = new StartsUnderWay();
  starts.begin();
  const watched = watch(starts);
  await sleep(30);
  assert.equal(watched.isOver, false);
  await watched.over;
});
