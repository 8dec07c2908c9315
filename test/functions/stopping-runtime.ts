/** The runtime of containers, stopping after each step of a start: see stop-at-steps.ts. */
import '../support/stop-at-steps.ts';

void import('../../runtime-init/main.ts');
