/**
 * Makes this process stop itself after each step of a start that it takes, until somebody continues
 * it (start-faults.ts does). Loaded into a host by `--import`, and into the processes of containers
 * by test/functions/stopping-runtime.ts.
 */
import { StepTimer } from '../../host/base/step-timer.ts';
import { currentPid, sendSignal } from '../../host/sys/process.ts';
import { titleOfStep } from './step-title.ts';

const SIGSTOP = 19;

const finish = Reflect.get(StepTimer.prototype, 'finish');
StepTimer.prototype.finish = function (name) {
  finish.call(this, name);
  process.title = titleOfStep(name);
  sendSignal(currentPid(), SIGSTOP);
};
