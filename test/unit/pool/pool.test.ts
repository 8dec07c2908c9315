import assert from 'node:assert/strict';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import fc from 'fast-check';
import { HatchError } from '../../../host/base/errors.ts';
import type { Acquired } from '../../../host/pool/function-pool.ts';
import { poolFunction } from '../../support/fake-pool.ts';
import { sandboxOf } from '../../support/fake-sandbox.ts';
import { hold, poolsForFile } from '../../support/fake-starter.ts';

const open = poolsForFile();
const wait = { timeoutMs: 5000 };

test('at the limit of the host the longest idle instance goes, never a busy one', async () => {
  const { pool, starter } = open({ instancesMax: 3 });
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => poolFunction(name));
  assert.ok(a !== undefined && b !== undefined && c !== undefined && d !== undefined);
  const busy = await hold(pool, a);
  const older = await hold(pool, b);
  const younger = await hold(pool, c);
  pool.release(older);
  await sleep(5);
  pool.release(younger);
  await hold(pool, d);
  assert.equal(older.instance.sandbox.alive, false);
  assert.ok(busy.instance.sandbox.alive && younger.instance.sandbox.alive);
  assert.equal(starter.alive.length, 3);
});

test('files are read ahead as soon as a start is known, and once for it', async () => {
  const { pool, starter } = open();
  const begun: number[] = [];
  const begin = (): number => begun.push(starter.started.length) * 4096;
  const fn = { ...poolFunction('a'), startReads: { begin, ended: () => undefined } };
  const acquired = pool.acquire(fn, wait);
  assert.deepEqual(begun, [0], 'at once, while the start waits for its turn');
  pool.release(await acquired);
  await hold(pool, fn);
  assert.deepEqual(begun, [0], 'an instance that is there reads nothing');
  assert.deepEqual(
    starter.orders.map(({ readAheadBytes }) => readAheadBytes),
    [4096],
  );
});

test('when all are busy a call waits for room that another function gives up', async () => {
  const { pool, starter } = open({ instancesMax: 1 });
  const first = await hold(pool, poolFunction('a'));
  const waiting = pool.acquire(poolFunction('b'), wait);
  await turn();
  pool.release(first);
  assert.equal((await waiting).instance.fn.name, 'b');
  assert.equal(starter.alive.length, 1);
});

test('room that a death leaves goes to whoever waits, of any function', async () => {
  const { pool } = open({ instancesMax: 1 });
  const first = await hold(pool, poolFunction('a'));
  const waiting = pool.acquire(poolFunction('b'), wait);
  await turn();
  await first.instance.sandbox.destroy();
  pool.release(first);
  assert.equal((await waiting).instance.fn.name, 'b');
});

test('many who want the same room never get more than there is', async () => {
  const { pool, starter } = open({ instancesMax: 2 });
  const idle = [await hold(pool, poolFunction('a')), await hold(pool, poolFunction('b'))];
  for (const each of idle) pool.release(each);
  let most = 0;
  const names = ['c', 'd', 'e', 'f', 'g', 'h'];
  await Promise.all(
    names.map(async (name) => {
      const acquired = await pool.acquire(poolFunction(name), wait);
      most = Math.max(most, starter.alive.length);
      await turn();
      pool.release(acquired);
    }),
  );
  assert.equal(most, 2);
});

test('starts at one time are limited', async () => {
  const { pool, starter } = open({ instancesMax: 100 });
  const fn = poolFunction('a', { instancesMax: 100 });
  await Promise.all(Array.from({ length: 60 }, () => pool.acquire(fn, wait)));
  assert.ok(starter.startsAtOnce <= 17, `${starter.startsAtOnce} starts at once`);
  assert.equal(starter.alive.length, 60);
});

test('a function that starts many delays another by those under way only', async () => {
  const { pool, starter } = open({ instancesMax: 100 });
  const many = poolFunction('many', { instancesMax: 100 });
  const burst = Array.from({ length: 60 }, () => pool.acquire(many, wait));
  await pool.acquire(poolFunction('other'), wait);
  const before = starter.started.findIndex(({ fn }) => fn.name === 'other');
  assert.ok(before >= 0 && before <= 16, `${before} of the others were first`);
  await Promise.all(burst);
});

test('a version that is retired while it is called ends after its last call', async () => {
  const { pool, starter } = open();
  const fn = poolFunction('a');
  const busy = await hold(pool, fn);
  const retired = pool.retire(fn);
  assert.equal(pool.stats().instances.length, 1);
  pool.release(busy);
  await retired;
  assert.equal(starter.alive.length, 0);
  assert.deepEqual(pool.stats().instances, []);
});

test('what an old pool of a version gives back does not reach the new one', async () => {
  const { pool } = open();
  const fn = poolFunction('a');
  const old = await hold(pool, fn);
  const retired = pool.retire(fn);
  const fresh = await hold(pool, fn);
  assert.notEqual(fresh.instance, old.instance);
  pool.release(old);
  await retired;
  assert.equal(old.instance.sandbox.alive, false);
  assert.equal(pool.tryAcquire(fn), undefined);
});

test('what functions want parked adds up, while they are here', async () => {
  const { pool, starter } = open({ parked: 2 });
  assert.equal(starter.parkedTarget, 2);
  const fn = poolFunction('a', { parked: 3 });
  pool.release(await hold(pool, fn));
  assert.equal(starter.parkedTarget, 5);
  await pool.retire(fn);
  assert.equal(starter.parkedTarget, 2);
});

test('after its keep-alive an idle instance ends', async () => {
  const { pool, starter } = open();
  const kept = await hold(
    pool,
    poolFunction('kept', { keepAlive: { policy: 'fixed', keepMs: 60_000 } }),
  );
  const brief = await hold(
    pool,
    poolFunction('brief', { keepAlive: { policy: 'fixed', keepMs: 1 } }),
  );
  const busy = await hold(
    pool,
    poolFunction('busy', { keepAlive: { policy: 'fixed', keepMs: 1 } }),
  );
  pool.release(kept);
  pool.release(brief);
  assert.equal((await brief.instance.sandbox.ended).code, 'host.draining');
  assert.deepEqual(starter.alive, [kept.instance, busy.instance]);
});

test('a closed pool has nothing and takes nothing', async () => {
  const { pool, starter } = open();
  const fn = poolFunction('a', { instancesMax: 1 });
  const busy = await hold(pool, fn);
  const retiring = poolFunction('b');
  await hold(pool, retiring);
  const retired = pool.retire(retiring);
  const refused = assert.rejects(pool.acquire(fn, wait), { code: 'host.draining' });
  await pool.close();
  await Promise.all([refused, retired]);
  pool.release(busy);
  assert.deepEqual(starter.alive, []);
  assert.throws(() => void pool.acquire(fn, wait), { code: 'host.draining' });
});

const action = fc.oneof(
  { weight: 5, arbitrary: fc.record({ do: fc.constant('acquire' as const), fn: fc.nat(2) }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('release' as const), at: fc.nat(20) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('kill' as const), at: fc.nat(20) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('retire' as const), fn: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('prepare' as const), fn: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('failNext' as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('turn' as const) }) },
);

/** Three functions that differ in what they allow. */
const functions = [
  poolFunction('single', { instancesMax: 2 }),
  poolFunction('shared', { instancesMax: 2, concurrency: 3 }),
  poolFunction('once', { instancesMax: 3, reuse: 'never' }),
];

test('in any order of events no limit is passed and no call is lost', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(action, { minLength: 5, maxLength: 60 }),
      fc.integer({ min: 1, max: 5 }),
      async (actions, instancesMax) => {
        const { pool, starter } = open({ instancesMax });
        const held: Acquired[] = [];
        const waiting = new Set<Promise<void>>();
        const background: Promise<unknown>[] = [];
        const failures: string[] = [];
        let failNext = false;
        starter.outcome = () => {
          if (!failNext) return undefined;
          failNext = false;
          return new HatchError('function.load_failed', 'As told');
        };
        const check = (): void => {
          assert.ok(starter.alive.length <= instancesMax, 'too many instances');
          for (const { sandbox, fn, reserved } of starter.started) {
            const slots = fn.reuse === 'never' ? 1 : fn.concurrency;
            assert.ok(reserved >= 0 && reserved <= slots, `${reserved} calls on ${sandbox.id}`);
          }
        };
        const take = (acquired: Acquired): void => {
          if (acquired.instance.fn.reuse === 'never') assert.equal(acquired.instance.reserved, 1);
          held.push(acquired);
          check();
        };
        for (const each of actions) {
          if (each.do === 'acquire') {
            const fn = functions[each.fn] ?? assert.fail();
            const now = pool.tryAcquire(fn);
            if (now === undefined) {
              const acquiring: Promise<void> = pool
                .acquire(fn, { timeoutMs: 10_000 })
                .then(take, (error: HatchError) => void failures.push(error.code))
                .finally(() => waiting.delete(acquiring));
              waiting.add(acquiring);
            } else take(now);
          } else if (each.do === 'release') {
            const [acquired] = held.splice(each.at % Math.max(1, held.length), 1);
            if (acquired !== undefined) pool.release(acquired);
          } else if (each.do === 'kill') {
            const instance = starter.alive[each.at % Math.max(1, starter.alive.length)];
            if (instance !== undefined) background.push(sandboxOf(instance).destroy());
          } else if (each.do === 'retire') {
            background.push(pool.retire(functions[each.fn] ?? assert.fail()));
          } else if (each.do === 'prepare') {
            const preparing = pool.prepare(functions[each.fn] ?? assert.fail());
            background.push(preparing.catch((error: HatchError) => failures.push(error.code)));
          } else if (each.do === 'failNext') failNext = true;
          else await turn();
          check();
        }
        // Whoever is served gives back at once: then every waiting call must come to its turn.
        const deadline = performance.now() + 3000;
        while (waiting.size > 0 || held.length > 0) {
          for (const acquired of held.splice(0)) pool.release(acquired);
          assert.ok(performance.now() < deadline, `${waiting.size} calls were forgotten`);
          await turn();
          check();
        }
        await Promise.all(background);
        assert.ok(
          failures.every((code) => code === 'function.load_failed' || code === 'host.busy'),
        );
        await pool.close();
        assert.deepEqual(starter.alive, []);
      },
    ),
    { numRuns: 300 },
  );
});
