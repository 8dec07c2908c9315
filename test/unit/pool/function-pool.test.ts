import assert from 'node:assert/strict';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import { FunctionPool, type Acquired } from '../../../host/pool/function-pool.ts';
import type { Instance } from '../../../host/pool/instance.ts';
import type { PoolFunction } from '../../../host/pool/pool-function.ts';
import { poolFunction } from '../../support/fake-pool.ts';
import { fakeInstance, sandboxOf } from '../../support/fake-sandbox.ts';

interface Start {
  succeed(): Instance;
  fail(error: HatchError): void;
}

/** A pool whose starts wait until the test lets them end. */
function open(changes: Partial<PoolFunction> = {}, queueLengthMax = 100) {
  const fn = poolFunction('f', changes);
  const starts: Start[] = [];
  let made = 0;
  let rooms = 0;
  const startInstance = (): Promise<Instance> => {
    const { promise, resolve, reject } = Promise.withResolvers<Instance>();
    starts.push({
      succeed: () => {
        const instance = fakeInstance(fn, `i${++made}`);
        resolve(instance);
        return instance;
      },
      fail: reject,
    });
    return promise;
  };
  const pool = new FunctionPool(
    fn,
    { startInstance, onRoom: () => rooms++, clock: 0 },
    { queueLengthMax },
  );
  const nextStart = async (): Promise<Start> => {
    while (starts.length === 0) await turn();
    return starts.shift() ?? assert.fail();
  };
  return { pool, starts, nextStart, rooms: () => rooms };
}

const wait = { timeoutMs: 5000 };
const request = (timeoutMs: number) => ({
  requestId: 'r',
  subject: 's',
  attempt: 1,
  timeoutMs,
  payload: new Uint8Array(),
});
const loadFailed = new HatchError('function.load_failed', 'It does not load');

async function settled(promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  promise.catch(() => undefined).finally(() => (done = true));
  await turn();
  return done;
}

test('the call that caused a start learns of it; the next one is hot', async () => {
  const { pool, nextStart } = open();
  const first = pool.acquire(wait);
  (await nextStart()).succeed();
  const acquired = await first;
  assert.equal(acquired.start, 'forked');
  assert.equal(acquired.startRecord?.instanceId, 'i1');
  const call = acquired.instance.call(request(1000));
  sandboxOf(acquired.instance).answer();
  await call;
  pool.release(acquired);
  const again = pool.tryAcquire();
  assert.equal(again?.instance, acquired.instance);
  assert.equal(again?.start, 'hot');
  assert.equal(again?.startRecord, undefined);
});

test('an instance that was prepared serves its first call hot', async () => {
  const { pool, nextStart } = open();
  const preparing = pool.prepare();
  (await nextStart()).succeed();
  await preparing;
  assert.equal(pool.tryAcquire()?.start, 'hot');
});

test('a waiting call takes what is free first, a start or what another gives back', async () => {
  const { pool, nextStart } = open();
  const first = pool.acquire(wait);
  (await nextStart()).succeed();
  const acquired = await first;
  const second = pool.acquire(wait);
  const slowStart = await nextStart();
  pool.release(acquired);
  assert.equal((await second).instance, acquired.instance);
  slowStart.succeed();
  await turn();
  assert.ok(pool.tryAcquire() !== undefined, 'what was started for it waits for the next call');
});

test('the queue is bounded, in number and in time', async () => {
  const { pool } = open({ instancesMax: 1 }, 2);
  const waiting = [pool.acquire({ timeoutMs: 20 }), pool.acquire({ timeoutMs: 20 })];
  await assert.rejects(pool.acquire(wait), { code: 'host.busy' });
  for (const each of waiting) await assert.rejects(each, { code: 'host.busy' });
  assert.equal(pool.waiting, 0);
});

test('a call that is cancelled while it waits leaves the queue at once', async () => {
  const { pool, nextStart } = open({ instancesMax: 1 }, 2);
  const cancelling = new AbortController();
  const reason = new HatchError('request.cancelled', 'Not wanted any more');
  const cancelled = pool.acquire({ ...wait, signal: cancelling.signal });
  const other = pool.acquire(wait);
  cancelling.abort(reason);
  await assert.rejects(cancelled, reason);
  assert.equal(pool.waiting, 1);
  (await nextStart()).succeed();
  await other;
});

test('a cancellation that comes after the instance concerns nobody who waits', async () => {
  const { pool, nextStart } = open({ instancesMax: 1 });
  const cancelling = new AbortController();
  const first = pool.acquire({ ...wait, signal: cancelling.signal });
  (await nextStart()).succeed();
  const acquired = await first;
  const second = pool.acquire(wait);
  cancelling.abort(new HatchError('request.cancelled', 'Too late'));
  pool.release(acquired);
  assert.equal((await second).instance, acquired.instance);
});

test('no more instances than the function may have', async () => {
  const { pool, starts } = open({ instancesMax: 2 });
  const waiting = [1, 2, 3, 4].map(() => pool.acquire(wait));
  await turn();
  assert.equal(starts.length, 2);
  const instances = starts.splice(0).map((start) => start.succeed());
  const [a, b] = [await waiting[0], await waiting[1]];
  assert.ok(a !== undefined && b !== undefined);
  assert.equal(await settled(waiting[2] ?? assert.fail()), false);
  pool.release(a);
  pool.release(b);
  const [c, d] = [await waiting[2], await waiting[3]];
  assert.deepEqual(new Set([c?.instance, d?.instance]), new Set(instances));
  assert.equal(starts.length, 0);
});

test('one instance takes as many calls at a time as the function says', async () => {
  const { pool, starts } = open({ concurrency: 3 });
  const waiting = [1, 2, 3, 4].map(() => pool.acquire(wait));
  await turn();
  assert.equal(starts.length, 2);
  const [one, other] = starts.splice(0).map((start) => start.succeed());
  const acquired = await Promise.all(waiting);
  const on = (instance: Instance | undefined) =>
    acquired.filter((each) => each.instance === instance).length;
  assert.deepEqual([on(one), on(other)], [3, 1]);
});

test('a failed start reaches exactly one call; who else counted on it gets another', async () => {
  const { pool, nextStart } = open({ concurrency: 3 });
  const waiting = [1, 2, 3].map(() => pool.acquire(wait));
  (await nextStart()).fail(loadFailed);
  await assert.rejects(waiting[0] ?? assert.fail(), { code: 'function.load_failed' });
  (await nextStart()).succeed();
  const [second, third] = [await waiting[1], await waiting[2]];
  assert.equal(second?.instance, third?.instance);
});

test('a call that counted on the start of a deploy is not forgotten when that fails', async () => {
  const { pool, nextStart } = open();
  const preparing = pool.prepare();
  const waiting = pool.acquire(wait);
  (await nextStart()).fail(loadFailed);
  await assert.rejects(preparing, { code: 'function.load_failed' });
  (await nextStart()).succeed();
  assert.equal((await waiting).start, 'forked');
});

test('without room on the host a call waits on, until it is asked to try again', async () => {
  const { pool, nextStart, starts } = open();
  const waiting = pool.acquire(wait);
  (await nextStart()).fail(new HatchError('host.busy', 'No room'));
  assert.equal(await settled(waiting), false);
  assert.equal(starts.length, 0);
  pool.startAsNeeded();
  (await nextStart()).succeed();
  await waiting;
});

test('an instance that may not be reused serves one call, late answers included', async () => {
  const { pool, nextStart } = open({ reuse: 'never', concurrency: 5 });
  const first = pool.acquire(wait);
  (await nextStart()).succeed();
  const acquired = await first;
  assert.equal(pool.tryAcquire(), undefined);
  // The time is up before the answer comes: it is given back while its call still runs.
  await assert.rejects(acquired.instance.call(request(1)), { code: 'function.timeout' });
  pool.release(acquired);
  const second = pool.acquire(wait);
  sandboxOf(acquired.instance).answer();
  assert.equal((await acquired.instance.sandbox.ended).code, 'host.draining');
  (await nextStart()).succeed();
  assert.notEqual((await second).instance, acquired.instance);
});

test('an overdue call keeps its slot until it ends', async () => {
  const { pool, nextStart } = open({ instancesMax: 1 });
  const first = pool.acquire(wait);
  (await nextStart()).succeed();
  const acquired = await first;
  await assert.rejects(acquired.instance.call(request(5)), { code: 'function.timeout' });
  pool.release(acquired);
  assert.deepEqual(sandboxOf(acquired.instance).cancelled, [1]);
  assert.equal(pool.tryAcquire(), undefined);
  const second = pool.acquire(wait);
  assert.equal(await settled(second), false);
  sandboxOf(acquired.instance).answer();
  assert.equal((await second).instance, acquired.instance);
});

test('a cancelled call fails at once, and keeps its slot until it ends', async () => {
  const { pool, nextStart } = open({ instancesMax: 1, concurrency: 2 });
  const both = [pool.acquire(wait), pool.acquire(wait)];
  (await nextStart()).succeed();
  const [{ instance }] = (await Promise.all(both)) as [Acquired, Acquired];
  const reason = new HatchError('request.cancelled', 'Not wanted any more');
  const cancelled = instance.call(request(5000));
  const other = instance.call({ ...request(5000), requestId: 'other' });
  instance.cancel('r', reason);
  instance.cancel('r', reason);
  await assert.rejects(cancelled, reason);
  assert.deepEqual(sandboxOf(instance).cancelled, [1]);
  pool.release({ instance, start: 'hot', startRecord: undefined });
  assert.equal(pool.tryAcquire(), undefined);
  sandboxOf(instance).answer();
  sandboxOf(instance).answer();
  await other;
  assert.equal(pool.tryAcquire()?.instance, instance);
});

test('a call that does not heed its time ends the instance, and what ran beside it', async () => {
  const { pool, nextStart } = open({ concurrency: 2, instancesMax: 1 });
  const both = [pool.acquire(wait), pool.acquire(wait)];
  (await nextStart()).succeed();
  const [one, other] = await Promise.all(both);
  assert.ok(one !== undefined && other !== undefined);
  const overdue = assert.rejects(one.instance.call(request(5)), { code: 'function.timeout' });
  const innocent = assert.rejects(other.instance.call(request(5000)), { code: 'function.exited' });
  await overdue;
  pool.release(one);
  await innocent;
  pool.release(other);
  const next = pool.acquire(wait);
  (await nextStart()).succeed();
  assert.notEqual((await next).instance, one.instance);
});

test('a dead instance is never handed out, and what waits gets a new one', async () => {
  const { pool, nextStart } = open({ instancesMax: 1 });
  const first = pool.acquire(wait);
  (await nextStart()).succeed();
  const acquired = await first;
  const second = pool.acquire(wait);
  await acquired.instance.sandbox.destroy();
  pool.release(acquired);
  assert.equal(pool.tryAcquire(), undefined);
  (await nextStart()).succeed();
  assert.notEqual((await second).instance, acquired.instance);
  assert.equal(pool.instances.size, 1);
});

test('retiring lets calls end, those that wait too, and then ends every instance', async () => {
  const { pool, nextStart } = open({ instancesMax: 2 });
  const both = [pool.acquire(wait), pool.acquire(wait)];
  (await nextStart()).succeed();
  (await nextStart()).succeed();
  const [idle, busy] = await Promise.all(both);
  assert.ok(idle !== undefined && busy !== undefined);
  pool.release(idle);
  const held = pool.tryAcquire() ?? assert.fail();
  const waiting = pool.acquire(wait);
  const retired = pool.retire();
  assert.equal(await settled(retired), false);
  assert.ok(busy.instance.sandbox.alive);
  pool.release(busy);
  const last = await waiting;
  pool.release(held);
  assert.equal(await settled(retired), false);
  pool.release(last);
  await retired;
  assert.equal(pool.instances.size, 0);
});

test('closing ends all at once and tells those who wait', async () => {
  const { pool, nextStart } = open({ instancesMax: 1 });
  const first = pool.acquire(wait);
  (await nextStart()).succeed();
  const acquired = await first;
  const call = acquired.instance.call(request(5000));
  const refusals = Promise.all([
    assert.rejects(pool.acquire(wait), { code: 'host.draining' }),
    assert.rejects(call, { code: 'host.draining' }),
  ]);
  await pool.close(new HatchError('host.draining', 'The host is stopping'));
  await refusals;
  assert.equal(pool.instances.size, 0);
});

test('closing waits for a start that is under way, and keeps nothing of it', async () => {
  const { pool, nextStart } = open();
  const refused = assert.rejects(pool.acquire(wait), { code: 'host.draining' });
  const start = await nextStart();
  const closed = pool.close(new HatchError('host.draining', 'The host is stopping'));
  await refused;
  assert.equal(await settled(closed), false);
  const late = start.succeed();
  await closed;
  assert.equal(late.sandbox.alive, false);
});

test('a call that gave up before its start was ready leaves an idle instance', async () => {
  const { pool, nextStart } = open();
  await assert.rejects(pool.acquire({ timeoutMs: 5 }), { code: 'host.busy' });
  (await nextStart()).succeed();
  await sleep(1);
  const acquired: Acquired | undefined = pool.tryAcquire();
  assert.equal(acquired?.start, 'forked');
});
