import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { defaultTrustClass, trustKey, type TrustClass } from '../../../host/zygote/trust-class.ts';
import { ParkedContainers } from '../../../host/pool/parked-containers.ts';
import type { Sandbox } from '../../../host/sandbox/sandbox.ts';
import { FakeSandbox } from '../../support/fake-sandbox.ts';

beforeEach(() => mock.timers.enable({ apis: ['setTimeout'] }));
afterEach(() => mock.reset());

/** Containers that cannot be made: what counts here is how often that is tried. */
function open(refillsPerSecond: number): { parked: ParkedContainers; tries: () => number } {
  let tries = 0;
  const make = (): Promise<never> => {
    tries++;
    return Promise.reject(new Error('As told'));
  };
  const parked = new ParkedContainers({ make, refillsPerSecond, onError: () => undefined });
  return { parked, tries: () => tries };
}

async function pass(ms: number): Promise<void> {
  mock.timers.tick(ms);
  await turn();
}

test('refills keep to their rate, and a rate of 0 ends them until there is another', async () => {
  const { parked, tries } = open(10);
  parked.setRate(0);
  parked.setTargets([{ trust: defaultTrustClass, count: 1, reserved: 0 }]);
  await pass(5000);
  assert.equal(tries(), 0);
  parked.setRate(2);
  await pass(499);
  assert.equal(tries(), 0);
  await pass(1);
  assert.equal(tries(), 1);
  await parked.close();
});

test('while calls wait for a start nothing is made ahead', async () => {
  const { parked, tries } = open(10);
  parked.hold(true);
  parked.setTargets([{ trust: defaultTrustClass, count: 1, reserved: 0 }]);
  await pass(5000);
  assert.equal(tries(), 0);
  parked.hold(false);
  await pass(100);
  assert.equal(tries(), 1);
  await parked.close();
});

const other: TrustClass = { tenant: 'other', isolation: 'fork' };

test('shelves are filled in turn: what cannot be made keeps nobody waiting', async () => {
  const made: string[] = [];
  const parked = new ParkedContainers({
    make: (trust) => {
      made.push(trust.tenant);
      return Promise.reject(new Error('As told'));
    },
    refillsPerSecond: 1,
    onError: () => undefined,
  });
  parked.setTargets([
    { trust: defaultTrustClass, count: 3, reserved: 0 },
    { trust: other, count: 1, reserved: 0 },
  ]);
  for (let second = 0; second < 4; second++) await pass(1000);
  assert.deepEqual(made, ['default', 'other', 'default', 'other']);
  await parked.close();
});

test('what is parked for one class is given to no other, and renewed on request', async () => {
  const sandboxes: FakeSandbox[] = [];
  const parked = new ParkedContainers({
    make: () => {
      const sandbox = new FakeSandbox(`s${sandboxes.length}`);
      sandboxes.push(sandbox);
      return Promise.resolve({ sandbox: sandbox as unknown as Sandbox, path: 'parked' });
    },
    refillsPerSecond: 1,
    onError: () => undefined,
  });
  parked.setTargets([{ trust: other, count: 1, reserved: 0 }]);
  await parked.fill();
  assert.equal(parked.take({ ...defaultTrustClass, parked: 0 }), undefined);
  assert.equal(parked.take({ ...other, isolation: 'exec', parked: 0 }), undefined);
  assert.equal(parked.count, 1);
  parked.renew(trustKey(other));
  assert.equal(sandboxes[0]?.alive, false);
  await pass(1000);
  assert.equal(parked.take({ ...other, parked: 0 })?.sandbox.id, 's1');
  parked.setTargets([]);
  await parked.close();
});

test('what functions have asked for is made also while calls wait', async () => {
  const { parked, tries } = open(10);
  parked.hold(true);
  parked.setTargets([{ trust: defaultTrustClass, count: 5, reserved: 1 }]);
  await pass(100);
  assert.equal(tries(), 1);
  await parked.close();
});

test('what one function has asked for is not given to another', async () => {
  let made = 0;
  const parked = new ParkedContainers({
    make: () => {
      const sandbox = new FakeSandbox(`s${made++}`);
      return Promise.resolve({ sandbox: sandbox as unknown as Sandbox, path: 'parked' });
    },
    refillsPerSecond: 1,
    onError: () => undefined,
  });
  parked.setTargets([{ trust: defaultTrustClass, count: 3, reserved: 2 }]);
  await parked.fill();
  const [asking, hasty] = [2, 0].map((count) => ({ ...defaultTrustClass, parked: count }));
  assert.ok(asking !== undefined && hasty !== undefined);
  assert.equal(parked.take(hasty)?.sandbox.id, 's0');
  assert.equal(parked.take(hasty), undefined);
  assert.equal(parked.take(asking)?.sandbox.id, 's1');
  await parked.close();
});
