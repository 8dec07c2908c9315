/** What is made ahead keeps to its cap, whoever starts how often, and all have a share of it. */
import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { ParkedContainers, type ParkedWish } from '../../../host/pool/parked-containers.ts';
import type { Sandbox } from '../../../host/sandbox/sandbox.ts';
import { defaultTrustClass, type TrustClass } from '../../../host/zygote/trust-class.ts';
import { poolFunction } from '../../support/fake-pool.ts';
import { FakeSandbox } from '../../support/fake-sandbox.ts';
import { hold, poolsForFile } from '../../support/fake-starter.ts';

const stepMs = 10;
const secondMs = 1000;
const other: TrustClass = { tenant: 'other', isolation: 'fork' };
const hasty = { ...defaultTrustClass, parked: 0 };
let nowMs = 0;
const openPool = poolsForFile();

beforeEach(() => {
  nowMs = 0;
  mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  mock.method(performance, 'now', () => nowMs);
});
afterEach(() => mock.reset());

async function pass(ms: number): Promise<void> {
  nowMs += ms;
  mock.timers.tick(ms);
  await turn();
}

interface Refill {
  tenant: string;
  atMs: number;
}

/** `eachStep` takes what it likes; resolves with what was made, and when. */
async function burst(options: {
  perSecond: number;
  wishes: ParkedWish[];
  seconds: number;
  eachStep: (parked: ParkedContainers) => void;
}): Promise<Refill[]> {
  const refills: Refill[] = [];
  const make = ({ tenant }: TrustClass) => {
    const sandbox = new FakeSandbox(`${tenant}-${refills.length}`);
    refills.push({ tenant, atMs: nowMs });
    return Promise.resolve({ sandbox: sandbox as unknown as Sandbox, path: 'parked' as const });
  };
  const { perSecond: refillsPerSecond } = options;
  const parked = new ParkedContainers({ make, refillsPerSecond, onError: assert.fail });
  parked.setTargets(options.wishes);
  while (nowMs < options.seconds * secondMs) {
    await pass(stepMs);
    options.eachStep(parked);
  }
  await parked.close();
  return refills;
}

/** In no second, wherever it begins, are there more than the cap. */
function assertWithin(cap: number, refills: readonly Refill[]): void {
  for (const { atMs: fromMs } of refills) {
    const within = refills.filter(({ atMs }) => atMs >= fromMs && atMs < fromMs + secondMs);
    assert.ok(within.length <= cap, `${within.length} from ${fromMs} ms on, and not ${cap}`);
  }
}

const takeAll = (parked: ParkedContainers): void => {
  while (parked.take(hasty) !== undefined);
};
const bursting = {
  wishes: [{ trust: defaultTrustClass, count: 64, reserved: 0 }],
  seconds: 8,
  eachStep: takeAll,
};

for (const cap of [1, 2, 5, 10, 50]) {
  test(`a burst that takes all there is has ${cap} made a second`, async () => {
    const refills = await burst({ ...bursting, perSecond: cap });
    assertWithin(cap, refills);
    // The cap is what holds them up.
    assert.ok(refills.length >= 0.75 * cap * bursting.seconds, `${refills.length}`);
  });
}

test('a cap that does not hold is seen', async () => {
  const refills = await burst({ ...bursting, perSecond: 6 });
  assert.throws(() => assertWithin(5, refills), /6 from .* and not 5/);
});

test('a cap that changes in a burst holds from then on, and one of 0 at once', async () => {
  let steps = 0;
  const refills = await burst({
    ...bursting,
    perSecond: 20,
    eachStep: (parked) => {
      takeAll(parked);
      if (++steps * stepMs === 2 * secondMs) parked.setRate(0);
      if (steps * stepMs === 5 * secondMs) parked.setRate(2);
    },
  });
  const [before, without, after] = [
    [0, 2000],
    [2001, 5000],
    [5001, 8000],
  ].map(([from = 0, to = 0]) => refills.filter(({ atMs }) => atMs >= from && atMs <= to));
  assert.ok(before && without && after);
  assertWithin(20, before);
  assert.ok(before.length > 20);
  assert.deepEqual(without, []);
  assertWithin(2, after);
  assert.ok(after.length > 2);
});

test('of a cap that a burst uses up, another class has every second refill it needs', async () => {
  let steps = 0;
  let missed = 0;
  const refills = await burst({
    perSecond: 10,
    seconds: 8,
    wishes: [
      { trust: defaultTrustClass, count: 64, reserved: 0 },
      { trust: other, count: 2, reserved: 0 },
    ],
    eachStep: (parked) => {
      takeAll(parked);
      // Four a second, which is less than half of the cap.
      if (steps++ >= 100 && steps % 25 === 0 && parked.take({ ...other, parked: 0 }) === undefined)
        missed++;
    },
  });
  assertWithin(10, refills);
  assert.equal(missed, 0);
  assert.ok(refills.filter(({ tenant }) => tenant === 'default').length > 30);
});

test('what a function asked for is refilled for it, however much another one takes', async () => {
  let steps = 0;
  let missed = 0;
  const refills = await burst({
    perSecond: 5,
    seconds: 8,
    wishes: [{ trust: defaultTrustClass, count: 4, reserved: 2 }],
    eachStep: (parked) => {
      takeAll(parked);
      const asking = { ...defaultTrustClass, parked: 2 };
      if (steps++ >= 100 && steps % 50 === 0 && parked.take(asking) === undefined) missed++;
    },
  });
  assertWithin(5, refills);
  assert.equal(missed, 0);
});

/** Three rounds of calls at once, ten minutes of the policy apart: a beat that it has learnt. */
const minuteMs = 1000;
const atOnce = 4;

test('starts ahead keep to the cap, and one function warming leaves others a turn', async () => {
  const cap = 3;
  const { pool, starter } = openPool({ refillsPerSecond: cap, instancesMax: 100 });
  const keepAlive = { policy: 'adaptive', minuteMs } as const;
  const fns = ['first', 'second'].map((name) =>
    poolFunction(name, { keepAlive, instancesMax: atOnce }),
  );
  for (let round = 0; round < 3; round++) {
    const held = await Promise.all(
      fns.flatMap((fn) => Array.from({ length: atOnce }, () => hold(pool, fn))),
    );
    for (const each of held) pool.release(each);
    if (round < 2) for (let minute = 0; minute < 10; minute++) await second();
  }
  const before = starter.started.length;
  const perSecond: string[][] = [];
  for (let minute = 0; minute < 12; minute++) {
    const known = starter.started.length;
    await second();
    perSecond.push(starter.started.slice(known).map(({ fn }) => fn.name));
  }
  assert.ok(
    perSecond.every((names) => names.length <= cap),
    JSON.stringify(perSecond),
  );
  const [earliest] = perSecond.filter((names) => names.length > 0);
  assert.deepEqual(new Set(earliest), new Set(['first', 'second']));
  assert.equal(starter.started.length - before, 2 * atOnce);
  assert.ok(starter.orders.slice(before).every(({ ahead }) => ahead));
  assert.ok(starter.orders.slice(0, before).every(({ ahead }) => !ahead));
});

async function second(): Promise<void> {
  await pass(secondMs);
  for (let turns = 0; turns < 50; turns++) await turn();
}
