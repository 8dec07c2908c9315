/** The escape checks, from inside instances that were parked. */
import { runChecks } from './run-checks.ts';

runChecks('parked');
