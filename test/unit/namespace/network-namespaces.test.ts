import assert from 'node:assert/strict';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { test } from 'node:test';
import { NetworkNamespaces } from '../../../host/namespace/network-namespaces.ts';

/** Descriptors stand for namespaces: what matters here is who closes them. */
function open(readyCount: number, make?: () => Promise<number>) {
  const made: number[] = [];
  const errors: string[] = [];
  let atOnce = 0;
  let mostAtOnce = 0;
  const pool = new NetworkNamespaces({
    readyCount,
    make: async () => {
      mostAtOnce = Math.max(mostAtOnce, ++atOnce);
      await Promise.resolve();
      atOnce--;
      const fd = await (make?.() ?? Promise.resolve(openSync('/dev/null', 'r')));
      made.push(fd);
      return fd;
    },
    onError: (message) => errors.push(message),
  });
  return { pool, made, errors, mostAtOnce: () => mostAtOnce };
}

function isOpen(fd: number): boolean {
  try {
    fstatSync(fd);
    return true;
  } catch {
    return false;
  }
}

test('as many as wanted are kept ready, made one after the other', async () => {
  const { pool, made, mostAtOnce } = open(4);
  await Promise.all([pool.fill(), pool.fill()]);
  assert.equal(made.length, 4);
  const fd = pool.take();
  assert.ok(fd !== undefined && made.includes(fd));
  await pool.fill();
  assert.equal(made.length, 5);
  assert.equal(mostAtOnce(), 1);
  pool.close();
  assert.ok(isOpen(fd), 'what was taken is the taker\u2019s');
  closeSync(fd);
  assert.ok(made.filter((one) => one !== fd).every((one) => !isOpen(one)));
});

test('without one ready the taker gets none, and one is on its way', async () => {
  const { pool, made } = open(1);
  assert.equal(pool.take(), undefined);
  await pool.fill();
  assert.equal(made.length, 1);
  pool.close();
});

test('a failure is told, and ends this attempt only', async () => {
  let fails = true;
  const { pool, made, errors } = open(2, async () => {
    if (fails) throw new Error('EAGAIN');
    return openSync('/dev/null', 'r');
  });
  await pool.fill();
  assert.deepEqual(errors, ['Cannot make a network namespace: EAGAIN']);
  fails = false;
  await pool.fill();
  assert.equal(made.length, 2);
  pool.close();
});

test('one that is made while the pool closes is closed too', async () => {
  const { promise, resolve } = Promise.withResolvers<number>();
  const { pool } = open(1, () => promise);
  const filled = pool.fill();
  await Promise.resolve();
  pool.close();
  const fd = openSync('/dev/null', 'r');
  resolve(fd);
  await filled;
  assert.equal(isOpen(fd), false);
});
