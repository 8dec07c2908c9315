/** The escape checks, from inside instances that were forked. */
import { runChecks } from './run-checks.ts';

runChecks('forked');
