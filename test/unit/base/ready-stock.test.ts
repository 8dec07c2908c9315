import assert from 'node:assert/strict';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import { ReadyStock, type ReadyStockOptions } from '../../../host/base/ready-stock.ts';
import { startsUnderWay } from '../../../host/base/starts-under-way.ts';

/** Longer than a stock waits before it fills up. */
const refilledMs = 100;

/** A stock of numbers: 1, 2, 3, … */
function open(options: Partial<ReadyStockOptions<number>> = {}) {
  const made: number[] = [];
  const discarded: number[] = [];
  const stock = new ReadyStock({
    name: 'cgroups',
    count: 3,
    make: () => made.push(made.length + 1),
    discard: (item) => void discarded.push(item),
    ...options,
  });
  return { stock, made, discarded };
}

test('as many as wanted are ready after a fill; the oldest is given away first', async () => {
  const { stock, made } = open();
  await Promise.all([stock.fill(), stock.fill()]);
  assert.deepEqual(made, [1, 2, 3]);
  assert.deepEqual([stock.take(), stock.take(), stock.take(), stock.take()], [1, 2, 3, undefined]);
  await stock.close();
});

test('what was taken is made anew, but not while a start is under way', async () => {
  const { stock, made } = open();
  await stock.fill();
  startsUnderWay.begin();
  for (let taking = 0; taking < 12; taking++) {
    stock.take();
    await sleep(5);
  }
  assert.deepEqual(made, [1, 2, 3]);
  startsUnderWay.end();
  await stock.fill();
  assert.deepEqual(made, [1, 2, 3, 4, 5, 6]);
  await stock.close();
});

test('filling stops when a start begins, and goes on after it', async () => {
  const { stock, made } = open({ count: 100 });
  const filled = stock.fill();
  while (made.length === 0) await nextTurn();
  startsUnderWay.begin();
  const { length } = made;
  await sleep(50);
  assert.ok(made.length <= length + 1, `${made.length - length} made beside a start`);
  startsUnderWay.end();
  await filled;
  assert.equal(made.length, 100);
  await stock.close();
});

test('one that cannot be made is told, and tried again after the next taking', async () => {
  const errors: unknown[] = [];
  let fails = true;
  const failure = new Error('ENOSPC');
  const { stock, made } = open({
    make: async () => {
      if (fails) throw failure;
      return made.push(0);
    },
    onError: (error) => errors.push(error),
  });
  await stock.fill();
  assert.deepEqual(errors, [failure]);
  fails = false;
  assert.equal(stock.take(), undefined);
  await sleep(refilledMs);
  assert.equal(made.length, 3);
  await stock.close();
});

test('closing discards what nobody took, and what was being made', async () => {
  const { promise, resolve } = Promise.withResolvers<number>();
  let asked = 0;
  const { stock, discarded } = open({ make: () => (++asked < 3 ? asked : promise) });
  void stock.fill();
  while (asked < 3) await sleep(1);
  const closed = stock.close();
  resolve(3);
  await closed;
  assert.deepEqual(discarded, [1, 2, 3]);
});

test('a closed stock gives nothing and makes nothing', async () => {
  const { stock, made } = open();
  await stock.close();
  assert.equal(stock.take(), undefined);
  await stock.fill();
  await sleep(refilledMs);
  assert.deepEqual(made, []);
});
