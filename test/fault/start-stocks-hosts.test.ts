/** Hosts are killed while they make something ahead, once at each. */
import { testStartFaults } from './start-faults.ts';

testStartFaults({ rounds: 1, victims: ['controller'], at: 'stocks' });
