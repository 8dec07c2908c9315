/**
 * Kills whoever takes part in a start after each of its steps, again and again.
 *
 * Usage: npm run soak -- --rounds 100 [--victim controller|zygote|'PID 1'|function]
 */
import { parseArgs } from 'node:util';
import { victims } from '../support/start-faults.ts';
import { testStartFaults } from './start-faults.ts';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '100' }, victim: { type: 'string' } },
});
const chosen = victims.filter((victim) => victim === (values.victim ?? victim));
if (chosen.length === 0) throw new Error(`--victim is one of ${victims.join(', ')}`);
testStartFaults({ rounds: Number(values.rounds), victims: chosen });
