/**
 * What the pool needs to know of one version of one function: plain data, made by who deploys it.
 * Only secrets are read when an instance starts, so that they are nowhere in between, and files are
 * read ahead then.
 */
import type { CgroupLimits } from '../cgroup/cgroup.ts';
import type { SeccompProfile } from '../protocol/invoke.ts';
import type { StorageName } from '../storage/storage-driver.ts';
import type { AttachedVolume } from '../sandbox/own-mounts.ts';
import type { TrustClass } from '../zygote/trust-class.ts';
import type { KeepAlivePolicy } from './policy/instance-demand.ts';

const MiB = 2 ** 20;

export interface PoolFunction extends TrustClass {
  name: string;
  version: string;
  /** The bundle, as a path inside the container. */
  entry: string;
  /** Directory names in the layer store, bottom first. */
  layerDirectories: string[];
  /** Undefined: the host's choice. */
  storage: StorageName | undefined;
  memoryMb: number;
  /** From here on it is slowed down; undefined means never. */
  memoryHighMb?: number | undefined;
  /** Cores; undefined means no quota. */
  cpu: number | undefined;
  /** Cores on top of `cpu` for one period, where less was used before. */
  cpuBurst: number;
  cpuWeight: number;
  pidsMax: number;
  io?: CgroupLimits['io'];
  timeoutMs: number;
  /** How long a call may go on after it was told to end, before its instance is killed. */
  graceMs: number;
  /** Calls that one instance runs at a time. */
  concurrency: number;
  instancesMax: number;
  keepAlive: KeepAlivePolicy;
  /** Without a call for so long, an instance is frozen; undefined: as the host says. */
  freezeIdleAfterMs: number | 'never' | undefined;
  /** How many more containers to keep parked for its sake. */
  parked: number;
  reuse: 'same-function' | 'never';
  seccomp: SeccompProfile;
  /** Rules of `network.egress`; empty for a function with a loopback only. */
  egress: readonly string[];
  env: Record<string, string>;
  secrets?: FunctionSecrets | undefined;
  /** Prepared on this host. */
  volumes?: readonly AttachedVolume[] | undefined;
  /** Undefined where a root does not read the layers' files themselves. */
  startReads?: StartReads | undefined;
}

/** What is told of its starts, so that their files are read ahead. */
export interface StartReads {
  /** One is known. Gives how many bytes are being read ahead for it. */
  begin(): number;
  /** It has ended well. `processes` gives those of its container, none when that is gone. */
  ended(processes: () => readonly number[]): void;
}

export interface FunctionSecrets {
  uses: readonly { name: string; as: 'file' | 'env' }[];
  /** Throws `secret.not_found`. */
  read(name: string): Buffer;
}

/** Calls that one instance can take at a time. One that is never reused takes one in its life. */
export function slotsOf(fn: Pick<PoolFunction, 'concurrency' | 'reuse'>): number {
  return fn.reuse === 'never' ? 1 : fn.concurrency;
}

/** The limits of one instance's control group. */
export function limitsOf(
  fn: Pick<
    PoolFunction,
    'memoryMb' | 'memoryHighMb' | 'cpu' | 'cpuBurst' | 'cpuWeight' | 'pidsMax' | 'io'
  >,
): CgroupLimits {
  return {
    memoryBytes: fn.memoryMb * MiB,
    memoryHighBytes: fn.memoryHighMb === undefined ? undefined : fn.memoryHighMb * MiB,
    cpuCores: fn.cpu,
    cpuBurstCores: fn.cpuBurst,
    cpuWeight: fn.cpuWeight,
    pidsMax: fn.pidsMax,
    io: fn.io,
  };
}

export function functionKey(fn: { name: string; version: string }): string {
  return `${fn.name}.${fn.version}`;
}
