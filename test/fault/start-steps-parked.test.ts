/**
 * Each fault once of starts from parked containers: while one is made, waits, and is assigned.
 * Those without a zygote are the soak's, `--kind parking --victim zygote`: on a loaded machine who
 * is forked while it dies can be lost to who continues those that have stopped themselves.
 */
import { testStartFaults } from './start-faults.ts';

testStartFaults({ rounds: 1, kind: 'parking', victims: ['controller', 'PID 1', 'function'] });
