/**
 * What the pool needs to know of one version of one function: plain data, made by who deploys it.
 */
import type { KeepAlivePolicy } from './policy/instance-demand.ts';

export interface PoolFunction {
  name: string;
  version: string;
  /** The bundle, as a path inside the container. */
  entry: string;
  /** Directory names in the layer store, bottom first. */
  layerDirectories: string[];
  memoryMb: number;
  /** Cores; undefined means no quota. */
  cpu: number | undefined;
  cpuWeight: number;
  pidsMax: number;
  timeoutMs: number;
  /** How long a call may go on after it was told to end, before its instance is killed. */
  graceMs: number;
  /** Calls that one instance runs at a time. */
  concurrency: number;
  instancesMax: number;
  keepAlive: KeepAlivePolicy;
  /** How many more containers to keep parked for its sake. */
  parked: number;
  reuse: 'same-function' | 'never';
  env: Record<string, string>;
}

/** Calls that one instance can take at a time. One that is never reused takes one in its life. */
export function slotsOf(fn: Pick<PoolFunction, 'concurrency' | 'reuse'>): number {
  return fn.reuse === 'never' ? 1 : fn.concurrency;
}

export function functionKey(fn: { name: string; version: string }): string {
  return `${fn.name}.${fn.version}`;
}
