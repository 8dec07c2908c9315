/**
 * Whoever takes part in a start is killed after each of its steps: the next start works, the next
 * host too, and nothing is left.
 */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import { paths, StartFaults, stepsWith, victims, type Victim } from '../support/start-faults.ts';

/** Stocks of things made ahead are fuller at one time than at another. */
const fluctuation = 24;

/** Defines the tests; each kills `rounds` times after each step. */
export function testStartFaults(options: { rounds: number; victims?: readonly Victim[] }): void {
  const { rounds } = options;
  suite('a start', () => {
    let faults: StartFaults;
    before(async () => {
      faults = await StartFaults.open();
      for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM'] as const)
        process.once(signal, () => void endBy(signal, faults));
    });
    after(() => faults[Symbol.asyncDispose]());

    for (const victim of options.victims ?? victims)
      for (const path of paths)
        test(`${path}, after any step without its ${victim}, ${rounds} times`, async () => {
          const before = faults.holdings();
          for (let round = 0; round < rounds; round++)
            for (const step of stepsWith(victim, path)) await faults.inject({ path, step, victim });
          const after = faults.holdings();
          faults.assertNobodyAdmitted();
          for (const kind of ['descriptors', 'mounts'] as const)
            assert.ok(after[kind] - before[kind] <= fluctuation, `${before[kind]}, ${after[kind]}`);
        });

    test('leaves nothing behind, however it ended', async () => {
      await faults.assertNothingLeft();
    });
  });
}

/** Who is tired of a soak leaves nothing on the machine either. */
async function endBy(signal: NodeJS.Signals, faults: StartFaults): Promise<void> {
  try {
    await faults[Symbol.asyncDispose]();
  } finally {
    process.kill(process.pid, signal);
  }
}
