/**
 * Kills whoever takes part in a start after each of its steps, again and again.
 *
 * Usage: npm run soak -- --rounds 100 [--kind plain|parking|btrfs]
 *                        [--victim controller|zygote|'PID 1'|function]
 */
import { parseArgs } from 'node:util';
import { kinds, victims, type Kind } from '../support/fault-points.ts';
import { testStartFaults } from './start-faults.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '100' },
    kind: { type: 'string' },
    victim: { type: 'string' },
  },
});
const chosen = victims.filter((victim) => victim === (values.victim ?? victim));
if (chosen.length === 0) throw new Error(`--victim is one of ${victims.join(', ')}`);
const allKinds = Object.keys(kinds) as Kind[];
const chosenKinds = allKinds.filter((kind) => kind === (values.kind ?? kind));
if (chosenKinds.length === 0) throw new Error(`--kind is one of ${allKinds.join(', ')}`);
for (const kind of chosenKinds)
  testStartFaults({ rounds: Number(values.rounds), victims: chosen, kind });
