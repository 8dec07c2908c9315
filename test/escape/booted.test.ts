/** The escape checks, from inside instances that were booted. */
import { runChecks } from './run-checks.ts';

runChecks('booted');
