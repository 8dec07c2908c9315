/** Where a start may lose who takes part in it: after each step, and at what is made ahead. */
import { stepNames, type StepName } from '../../host/base/channels.ts';
import { stockNames } from '../../host/base/ready-stock.ts';
import { stockStep, type StockStep } from './step-title.ts';

export const victims = ['controller', 'zygote', 'PID 1', 'function'] as const;
export type Victim = (typeof victims)[number];

const unconnected = stepNames.filter((name) => name !== 'egress');

/**
 * Which steps the start of a new container has on each path; `connected` is one with egress. Those
 * that are parked take their first steps when one is made in place of the one that was given away.
 */
const stepsOf = {
  forked: unconnected,
  booted: ['limits', 'overlay', 'rootfs', 'load'],
  connected: stepNames,
  parked: unconnected,
  'parked connected': stepNames,
  snapshot: unconnected,
} as const satisfies Record<string, readonly StepName[]>;
export type FaultPath = keyof typeof stepsOf;

/** What a host is like, and which paths it has. */
export const kinds = {
  plain: { paths: ['forked', 'booted', 'connected'], parked: 0, filesystem: undefined },
  parking: { paths: ['parked', 'parked connected'], parked: 1, filesystem: undefined },
  btrfs: { paths: ['snapshot'], parked: 0, filesystem: 'btrfs' },
} as const satisfies Record<string, HostKind>;
export type Kind = keyof typeof kinds;

export interface HostKind {
  paths: readonly FaultPath[];
  /** Containers that it keeps parked. */
  parked: number;
  /** Where its state directory is. */
  filesystem: 'btrfs' | undefined;
}

/** After which steps of such a start the victim may die. */
export function stepsWith(victim: Victim, path: FaultPath): readonly StepName[] {
  // The container's own processes are not there before.
  return stepsOf[path].filter((name) => victim === 'controller' || name !== 'egress');
}

/** When a stock is filled as a host starts; the others are filled after a first start. */
export const stockStepsAtStart = stockSteps(
  (name) => name !== 'connected networks' && name !== 'snapshots',
);

/** When a stock is filled up again, after a start by that path has taken from it. */
export function stockStepsAfter(path: FaultPath): StockStep[] {
  const isConnected = path.endsWith('connected');
  return stockSteps((name) => {
    // A range that was given back is used again.
    if (name === 'id ranges') return false;
    if (name === 'snapshots') return path === 'snapshot';
    if (name === 'memory roots') return path !== 'snapshot';
    if (name === 'connected networks') return isConnected;
    if (name === 'networks') return path !== 'connected';
    if (name === 'blank pairs') return path !== 'booted';
    return true;
  });
}

function stockSteps(isMeant: (name: (typeof stockNames)[number]) => boolean): StockStep[] {
  const names = stockNames.filter(isMeant);
  return names.flatMap((name) => [stockStep('before', name), stockStep('after', name)]);
}

export interface Fault {
  path: FaultPath;
  step: StepName | StockStep;
  victim: Victim;
}
