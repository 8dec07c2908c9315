/** Each fault once of starts from parked containers: while one is made, waits, and is assigned. */
import { testStartFaults } from './start-faults.ts';

testStartFaults({ rounds: 1, kind: 'parking' });
