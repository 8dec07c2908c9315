/** Each fault of a start once; `npm run soak` brings them about again and again. */
import { testStartFaults } from './start-faults.ts';

testStartFaults({ rounds: 1, victims: ['zygote', 'PID 1', 'function'] });
