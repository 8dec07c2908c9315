/** Admission by memory, eviction, and what the pool does by itself once a second. */
import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, mock, test } from 'node:test';
import fc from 'fast-check';
import { HatchError } from '../../../host/base/errors.ts';
import type { PoolFunction } from '../../../host/pool/pool-function.ts';
import { poolFunction } from '../../support/fake-pool.ts';
import { sandboxOf } from '../../support/fake-sandbox.ts';
import { atEase, hold, poolsForFile, type FakeStarter } from '../../support/fake-starter.ts';

const open = poolsForFile();
const MiB = 2 ** 20;
const minuteMs = 60_000;
let nowMs = 0;

beforeEach(() => {
  mock.timers.enable({ apis: ['setInterval', 'setTimeout'] });
  mock.method(performance, 'now', () => nowMs);
});
afterEach(() => mock.reset());

/** Time goes by, a second at a time, as the pool looks at it. */
async function pass(ms: number): Promise<void> {
  for (const endMs = nowMs + ms; nowMs < endMs;) {
    nowMs += 1000;
    mock.timers.tick(1000);
    await settle();
  }
}

async function settle(): Promise<void> {
  for (let count = 0; count < 4; count++) await turn();
}

const sizes = (starter: FakeStarter, sizesMb: Record<string, number>): void => {
  starter.memoryBytes = ({ name }) => (sizesMb[name] ?? 1) * MiB;
};
const named = (names: string[], changes = {}) =>
  names.map((name) => poolFunction(name, { memoryMb: 50, ...changes }));
const namesOf = (starter: FakeStarter): string[] => starter.alive.map(({ fn }) => fn.name).sort();

test('an instance is charged what it takes, and its limit as long as nobody knows', async () => {
  const { pool, starter } = open({ memoryBytesMax: 100 * MiB });
  sizes(starter, { small: 10 });
  const small = poolFunction('small', { memoryMb: 90, instancesMax: 100 });
  // The first takes its limit of 90 until it is there; then ten of 10 fit, and no eleventh.
  for (let count = 0; count < 10; count++) await hold(pool, small);
  const refused = pool.acquire(small, { timeoutMs: 500 });
  const rejected = assert.rejects(refused, { code: 'host.busy' });
  await pass(1000);
  await rejected;
  assert.equal(starter.alive.length, 10);
});

/** Of a container that waits, its group is charged 1 MiB; the host pays 4 more for any. */
const waiting = {
  memoryInUse: () => MiB,
  memoryPaidByHost: () => Promise.resolve(4 * MiB),
};

test('what the host pays for an instance counts too', async () => {
  const { pool, starter } = open({ memoryBytesMax: 100 * MiB, parked: 0 });
  sizes(starter, { small: 6 });
  starter.parked.some = waiting;
  await pool.fill();
  const small = poolFunction('small', { memoryMb: 6, instancesMax: 100 });
  for (let count = 0; count < 10; count++) await hold(pool, small);
  assert.equal(pool.memoryBytes, 100 * MiB);
  const refused = pool.acquire(small, { timeoutMs: 500 });
  const rejected = assert.rejects(refused, { code: 'host.busy' });
  await pass(1000);
  await rejected;
});

test('parked containers count, and give way to instances', async () => {
  const { pool, starter } = open({ memoryBytesMax: 100 * MiB, parked: 8 });
  sizes(starter, { large: 80 });
  starter.parked.some = waiting;
  await pool.fill();
  starter.parked.count = starter.parkedTarget;
  assert.deepEqual([starter.parkedTarget, pool.memoryBytes], [8, 40 * MiB]);
  const held = await hold(pool, poolFunction('large', { memoryMb: 80 }));
  assert.equal(starter.parkedTarget, 3, 'as many as fit beside 84 MiB, at once');
  await held.instance.sandbox.destroy();
  pool.release(held);
  await pass(1000);
  assert.equal(starter.parkedTarget, 8);
});

test('a function whose limit is the whole budget gets it', async () => {
  const { pool, starter } = open({ memoryBytesMax: 100 * MiB });
  starter.parked.some = waiting;
  await pool.fill();
  await hold(pool, poolFunction('whole', { memoryMb: 100 }));
});

test('for want of memory the idle instance goes that is called least for its size', async () => {
  const { pool, starter } = open({ memoryBytesMax: 100 * MiB });
  sizes(starter, { often: 30, seldom: 30, large: 35 });
  const [often, seldom, large, next] = named(['often', 'seldom', 'large', 'next']);
  assert.ok(often !== undefined && seldom !== undefined && large !== undefined && next);
  for (let call = 0; call < 5; call++) pool.release(await hold(pool, often));
  for (const fn of [large, seldom]) pool.release(await hold(pool, fn));
  // 5 MiB are free and `next` may take 50: neither `large` nor `seldom` would be enough alone.
  pool.release(await hold(pool, next));
  assert.deepEqual(namesOf(starter), ['next', 'often']);
});

test('nobody busy goes; the call waits, and gets the memory that comes free', async () => {
  const { pool, starter } = open({ memoryBytesMax: 100 * MiB });
  sizes(starter, { a: 40, b: 40 });
  const [a, b, c] = named(['a', 'b', 'c']);
  assert.ok(a !== undefined && b !== undefined && c !== undefined);
  const [first] = [await hold(pool, a), await hold(pool, b)];
  const waiting = pool.acquire(c, { timeoutMs: 60_000 });
  await pass(3000);
  assert.deepEqual(namesOf(starter), ['a', 'b']);
  pool.release(first);
  assert.equal((await waiting).instance.fn.name, 'c');
  assert.deepEqual(namesOf(starter), ['b', 'c']);
});

test('instances that have grown leave no room for others', async () => {
  const { pool, starter } = open({ memoryBytesMax: 100 * MiB });
  const [a, b] = named(['a', 'b']);
  assert.ok(a !== undefined && b !== undefined);
  const { instance } = await hold(pool, a);
  sandboxOf(instance).memoryBytes = 80 * MiB;
  await pass(1000);
  const refused = assert.rejects(pool.acquire(b, { timeoutMs: 500 }), { code: 'host.busy' });
  await pass(1000);
  await refused;
  assert.deepEqual(namesOf(starter), ['a']);
});

test('after regular calls an instance ends, and one is there before the next call', async () => {
  const { pool, starter } = open();
  const timer = poolFunction('timer', { keepAlive: { policy: 'adaptive' } });
  for (let call = 0; call < 3; call++) {
    pool.release(await hold(pool, timer));
    if (call < 2) await pass(30 * minuteMs);
  }
  await pass(minuteMs);
  assert.equal(starter.alive.length, 0);
  await pass(27 * minuteMs);
  assert.equal(starter.alive.length, 1);
  const next = await hold(pool, timer);
  assert.equal(next.start, 'hot');
});

test('nobody goes for a call that is only expected', async () => {
  const { pool, starter } = open({ instancesMax: 1 });
  const timer = poolFunction('timer', { keepAlive: { policy: 'adaptive' } });
  for (let call = 0; call < 3; call++) {
    pool.release(await hold(pool, timer));
    if (call < 2) await pass(30 * minuteMs);
  }
  await pass(minuteMs);
  const other = poolFunction('other', { keepAlive: { policy: 'fixed', keepMs: 1e9 } });
  pool.release(await hold(pool, other));
  await pass(29 * minuteMs);
  assert.deepEqual(namesOf(starter), ['other']);
});

test('what a deploy starts is kept as if it had been called', async () => {
  const { pool, starter } = open();
  const fn = poolFunction('a', { keepAlive: { policy: 'fixed', keepMs: 5000 } });
  await pool.prepare(fn);
  await pool.prepare(fn);
  await pass(4000);
  assert.equal(starter.alive.length, 2);
  await pass(2000);
  assert.equal(starter.alive.length, 0);
});

test('under memory pressure idle instances are given back, busy ones never', async () => {
  let pressure = atEase;
  const { pool, starter } = open({ readPressure: () => pressure });
  const fn = poolFunction('a', { keepAlive: { policy: 'fixed', keepMs: 1e9 } });
  const held = await Promise.all([0, 1, 2, 3].map(() => pool.acquire(fn, { timeoutMs: 100 })));
  const [busy, ...rest] = held;
  for (const each of rest) pool.release(each);
  await pass(1000);
  assert.deepEqual([starter.alive.length, starter.refillsPerSecond], [4, 100]);
  starter.parked.count = 2;
  pressure = { ...atEase, availableBytes: 0.2 * atEase.memoryBytes, memorySome: 50 };
  await pass(1000);
  assert.deepEqual([starter.alive.length, starter.refillsPerSecond], [2, 0]);
  assert.equal(starter.parkedTarget, 1);
  await pass(1000);
  assert.deepEqual(starter.alive, [busy?.instance]);
  pressure = atEase;
  await pass(1000);
  assert.deepEqual([starter.parkedTarget, starter.refillsPerSecond], [2, 100]);
});

test('a busy CPU slows refills; starts raise what is parked, and it falls again', async () => {
  let cpuSome = 100;
  const readPressure = () => ({ ...atEase, cpuSome });
  const { pool, starter } = open({ parkedMax: 20, instancesMax: 100, readPressure });
  const fn = poolFunction('a', { instancesMax: 100 });
  await Promise.all(Array.from({ length: 60 }, () => pool.acquire(fn, { timeoutMs: 100 })));
  await pass(1000);
  assert.equal(Math.round(starter.refillsPerSecond), 10);
  assert.ok(starter.parkedTarget > 10 && starter.parkedTarget <= 20, `${starter.parkedTarget}`);
  cpuSome = 0;
  await pass(15 * minuteMs);
  assert.deepEqual([starter.parkedTarget, starter.refillsPerSecond], [2, 100]);
});

test('who keeps nothing parked gets nothing parked by demand', async () => {
  const { pool, starter } = open({ parked: 0, parkedMax: 20 });
  for (const name of ['a', 'b', 'c']) await hold(pool, poolFunction(name));
  await pass(1000);
  assert.equal(starter.parkedTarget, 0);
});

test('whatever is called, the memory of all never passes the budget', async () => {
  const call = fc.record({ name: fc.constantFrom('a', 'b', 'c', 'd'), holds: fc.boolean() });
  const cases = fc.asyncProperty(fc.array(call, { maxLength: 40 }), async (calls) => {
    const { pool, starter } = open({ memoryBytesMax: 100 * MiB });
    sizes(starter, { a: 10, b: 20, c: 30, d: 45 });
    for (const { name, holds } of calls) {
      const fn = poolFunction(name, { memoryMb: 50, instancesMax: 3 });
      const acquired = await Promise.race([hold(pool, fn).catch(() => undefined), settle()]);
      if (acquired !== undefined && !holds) pool.release(acquired);
      const used = starter.alive.reduce((sum, one) => sum + sandboxOf(one).memoryBytes, 0);
      assert.ok(used <= 100 * MiB, `${used / MiB} MiB`);
    }
    await pool.close();
  });
  await fc.assert(cases, { numRuns: 50 });
});

test('an idle instance is frozen after the time its function or the host says', async () => {
  const { pool } = open({ freezeIdleAfterMs: 3000 });
  const keepAlive = { policy: 'fixed', keepMs: minuteMs } as const;
  const as = async (name: string, freezeIdleAfterMs: PoolFunction['freezeIdleAfterMs']) =>
    await hold(pool, poolFunction(name, { keepAlive, freezeIdleAfterMs }));
  const [usual, never, at] = [await as('a', undefined), await as('b', 'never'), await as('c', 0)];
  await pass(5000);
  const frozen = () => [usual, never, at].map(({ instance }) => sandboxOf(instance).frozen);
  assert.deepEqual(frozen(), [false, false, false], 'busy ones are not');
  for (const acquired of [usual, never, at]) pool.release(acquired);
  await pass(1000);
  assert.deepEqual(frozen(), [false, false, true]);
  await pass(2000);
  assert.deepEqual(frozen(), [true, false, true]);
  const states = pool.stats().instances.map(({ state }) => state);
  assert.deepEqual(states, ['frozen', 'idle', 'frozen']);
  await pass(minuteMs);
  assert.equal(pool.stats().instances.length, 0, 'keep-alive ends them as any other');
});

test('what cannot be frozen is left alone until it has served a call', async () => {
  const notices: string[] = [];
  const { pool } = open({ freezeIdleAfterMs: 0, onNotice: (notice) => notices.push(notice) });
  const fn = poolFunction('f', { keepAlive: { policy: 'fixed', keepMs: minuteMs } });
  const acquired = await hold(pool, fn);
  const sandbox = sandboxOf(acquired.instance);
  sandbox.cannotFreeze = new HatchError('host.start_failed', 'A process did not stop');
  pool.release(acquired);
  await pass(5000);
  assert.equal(sandbox.freezes, 1);
  assert.deepEqual(notices, ['A process did not stop']);
  pool.release(await hold(pool, fn));
  await pass(1000);
  assert.equal(sandbox.freezes, 2);
});

test('the first start of a tenant needs room for its zygote, which then stays taken', async () => {
  const { pool, starter } = open({ memoryBytesMax: 100 * MiB });
  const theirs = poolFunction('theirs', { tenant: 'a', memoryMb: 50 });
  starter.missingBytes = () => 60 * MiB;
  const refused = pool.acquire(theirs, { timeoutMs: 500 });
  const rejected = assert.rejects(refused, { code: 'host.busy' });
  await pass(1000);
  await rejected;
  starter.missingBytes = () => 40 * MiB;
  starter.zygoteBytes = 40 * MiB;
  await hold(pool, theirs);
  starter.missingBytes = () => 0;
  // 40 of the zygote and 1 of the instance leave no room for 60.
  const large = pool.acquire(poolFunction('large', { memoryMb: 60 }), { timeoutMs: 500 });
  const alsoRejected = assert.rejects(large, { code: 'host.busy' });
  await pass(1000);
  await alsoRejected;
  starter.zygoteBytes = 0;
  await pass(1000);
  await hold(pool, poolFunction('large', { memoryMb: 60 }));
});
