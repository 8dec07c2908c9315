/**
 * Times the steps of a start, each from the end of the one before. Whatever is a step of a start
 * ends here and has a name of the list: so tests can stop a start after each (see
 * test/support/stop-at-steps.ts).
 */
import type { Step, StepName } from './channels.ts';
import { nowNs } from './clock.ts';

export class StepTimer {
  readonly steps: Step[] = [];
  #lastNs: number;

  constructor(startNs = nowNs()) {
    this.#lastNs = startNs;
  }

  finish(name: StepName): void {
    const endNs = nowNs();
    this.steps.push({ name, startNs: this.#lastNs, endNs });
    this.#lastNs = endNs;
  }
}
