/**
 * Whoever takes part in a start is killed after each of its steps: the next start works, the next
 * host too, and nothing is left.
 */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import {
  kinds,
  stepsWith,
  stockStepsAfter,
  stockStepsAtStart,
  victims,
  type Kind,
  type Victim,
} from '../support/fault-points.ts';
import { StartFaults } from '../support/start-faults.ts';

/** Stocks of things made ahead are fuller at one time than at another. */
const fluctuation = 24;

/** Defines the tests; each kills `rounds` times after each step. */
export function testStartFaults(options: {
  rounds: number;
  victims?: readonly Victim[];
  kind?: Kind;
  /** After steps of starts, and while something is made ahead; both, if it does not say. */
  at?: 'steps' | 'stocks';
}): void {
  const { rounds, kind = 'plain', at } = options;
  const { paths, parked } = kinds[kind];
  suite(`a start, ${kind}`, () => {
    let faults: StartFaults;
    before(async () => {
      faults = await StartFaults.open(kind);
      for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM'] as const)
        process.once(signal, () => void endBy(signal, faults));
    });
    after(() => faults[Symbol.asyncDispose]());

    const withoutGrowth = async (inject: () => Promise<void>): Promise<void> => {
      const before = await whenFull(faults);
      for (let round = 0; round < rounds; round++) await inject();
      const after = await whenFull(faults);
      await faults.assertNobodyAdmitted();
      for (const [kind, count] of Object.entries(before)) {
        const grown = after[kind as keyof typeof after] - count;
        assert.ok(grown <= fluctuation, `${kind}: ${grown} more than ${count}`);
      }
    };

    const testSteps = (victim: Victim): void => {
      for (const path of paths)
        test(`${path}, after any step without its ${victim}, ${rounds} times`, () =>
          withoutGrowth(async () => {
            for (const step of stepsWith(victim, path)) await faults.inject({ path, step, victim });
          }));
      if (parked > 0)
        test(`a parked container that waits, without its ${victim}, ${rounds} times`, () =>
          withoutGrowth(() => faults.injectParked(victim)));
    };

    const testStocks = (victim: Victim): void => {
      if (victim !== 'controller' && victim !== 'zygote') return;
      for (const path of paths)
        test(`${path}, without its ${victim} while stocks are filled, ${rounds} times`, () =>
          withoutGrowth(async () => {
            for (const step of stockStepsAfter(path)) await faults.inject({ path, step, victim });
          }));
      if (victim === 'controller')
        test(`hosts die while they fill their stocks, ${rounds} times`, () =>
          withoutGrowth(() => faults.injectAtStart(stockStepsAtStart)));
    };

    for (const victim of options.victims ?? victims) {
      if (at !== 'stocks') testSteps(victim);
      if (at !== 'steps') testStocks(victim);
    }

    test('leaves nothing behind, however it ended', async () => {
      await faults.assertNothingLeft();
    });
  });
}

/** What the host holds when it makes nothing ahead any more: two looks find the same. */
async function whenFull(faults: StartFaults): Promise<ReturnType<StartFaults['holdings']>> {
  let found = faults.holdings();
  for (let looks = 0; looks < 20; looks++) {
    await sleep(500);
    const before = found;
    found = faults.holdings();
    if (isDeepStrictEqual(before, found)) break;
  }
  return found;
}

/** Who is tired of a soak leaves nothing on the machine either. */
async function endBy(signal: NodeJS.Signals, faults: StartFaults): Promise<void> {
  try {
    await faults[Symbol.asyncDispose]();
  } finally {
    process.kill(process.pid, signal);
  }
}
