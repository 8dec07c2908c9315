/** Several hosts answer: the good answers are shown, the bad ones told; all bad is a failure. */
import type { ControlReply, ControlVerb } from '../dispatch/control-api.ts';
import type { HostAnswer } from '../dispatch/control-client.ts';
import type { HatchError } from '../base/errors.ts';
import type { Output } from './output.ts';

/** @throws HatchError of a host when no host has a good answer */
export function answersOf<V extends ControlVerb>(
  answers: HostAnswer<V>[],
  output: Output,
): { host: string; reply: ControlReply<V> }[] {
  const good: { host: string; reply: ControlReply<V> }[] = [];
  const bad: { host: string; error: HatchError }[] = [];
  for (const answer of answers) {
    if ('reply' in answer) good.push(answer);
    else bad.push(answer);
  }
  const [first] = bad;
  if (good.length === 0 && first !== undefined) throw first.error;
  for (const { host, error } of bad) output.note(`warning: host ${host}: ${error.message}`);
  return good.toSorted((a, b) => (a.host < b.host ? -1 : 1));
}
