/** Hosts are killed after each step of a start, once. */
import { testStartFaults } from './start-faults.ts';

testStartFaults({ rounds: 1, victims: ['controller'], at: 'steps' });
