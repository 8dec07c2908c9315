/**
 * Makes this process stop itself after each step of a start that it takes, and before and after it
 * makes something ahead, until somebody continues it (start-faults.ts does). Loaded into a host by
 * `--import`, and into the processes of containers by test/functions/stopping-runtime.ts.
 */
import { ReadyStock } from '../../host/base/ready-stock.ts';
import { StepTimer } from '../../host/base/step-timer.ts';
import { currentPid, sendSignal } from '../../host/sys/process.ts';
import { stockStep, titleOfStep } from './step-title.ts';

const SIGSTOP = 19;
const finish = Reflect.get(StepTimer.prototype, 'finish');
StepTimer.prototype.finish = function (name) {
  finish.call(this, name);
  stopAt(name);
};

// Of what a stock makes in one go only the first is stopped at.
const goingOn = new WeakSet();
const take = Reflect.get(ReadyStock.prototype, 'take');
ReadyStock.prototype.take = function () {
  goingOn.delete(this);
  return take.call(this);
};
const makeOne = Reflect.get(ReadyStock.prototype, 'makeOne');
ReadyStock.prototype.makeOne = async function () {
  const isFirst = !goingOn.has(this);
  goingOn.add(this);
  if (isFirst) stopAt(stockStep('before', this.name));
  const made = await makeOne.call(this);
  if (isFirst) stopAt(stockStep('after', this.name));
  return made;
};

function stopAt(step: string): void {
  process.title = titleOfStep(step);
  sendSignal(currentPid(), SIGSTOP);
}
