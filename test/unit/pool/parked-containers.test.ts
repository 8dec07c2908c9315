import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { defaultTrustClass } from '../../../host/zygote/trust-class.ts';
import { ParkedContainers } from '../../../host/pool/parked-containers.ts';

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
  parked.setTargets([{ trust: defaultTrustClass, count: 1 }]);
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
  parked.setTargets([{ trust: defaultTrustClass, count: 1 }]);
  await pass(5000);
  assert.equal(tries(), 0);
  parked.hold(false);
  await pass(100);
  assert.equal(tries(), 1);
  await parked.close();
});
