/**
 * Each fault once of starts from parked containers: while one is made, waits, and is assigned.
 * Killed hosts take minutes to come again: `npm run soak -- --kind parking` kills them, too.
 */
import { testStartFaults } from './start-faults.ts';

testStartFaults({ rounds: 1, kind: 'parking', victims: ['zygote', 'PID 1', 'function'] });
