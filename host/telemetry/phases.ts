/** What a call's time was made of, as both the picture and the spans show it. */
import type { CallRecord, StartPath, Step } from '../base/channels.ts';

export interface Phase {
  startNs: number;
  endNs: number;
}

export interface Phases {
  /** From the message's arrival until an instance, or the start of one, had it. */
  queue: Phase;
  start: (Phase & { path: StartPath; steps: Step[] }) | undefined;
  /** From being handed to the instance until the reply; undefined when it never was. */
  handler: Phase | undefined;
  /** Steps of the start that had ended before the call came: a container parked in advance. */
  ahead: Step[];
}

export function phasesOf(record: CallRecord): Phases {
  const { receivedNs, dispatchedNs, endNs, startRecord } = record;
  const handler = dispatchedNs === undefined ? undefined : { startNs: dispatchedNs, endNs };
  // A start may have begun for an earlier call that then found another instance.
  const waitEndNs = startRecord?.startNs ?? dispatchedNs ?? endNs;
  const queue = { startNs: receivedNs, endNs: Math.max(receivedNs, waitEndNs) };
  if (startRecord === undefined) return { queue, start: undefined, handler, ahead: [] };
  const { path, startNs, endNs: startedNs } = startRecord;
  const isAhead = (step: Step): boolean => step.endNs <= Math.min(startNs, receivedNs);
  const inOrder = startRecord.steps.toSorted((a, b) => a.startNs - b.startNs);
  return {
    queue,
    start: { startNs, endNs: startedNs, path, steps: inOrder.filter((step) => !isAhead(step)) },
    handler,
    ahead: inOrder.filter(isAhead),
  };
}
