/** Each fault once of starts whose root is a snapshot on btrfs. */
import { testStartFaults } from './start-faults.ts';

testStartFaults({ rounds: 1, kind: 'btrfs' });
