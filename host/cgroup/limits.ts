/** Limits of a group, and the arithmetic between the scales of cgroup v1 and v2. Pure. */
import { HatchError } from '../base/errors.ts';

export interface CgroupLimits {
  /** Memory with page cache and tmpfs, without any swap on top. */
  memoryBytes: number;
  /** From here on the kernel reclaims and slows the group down, before it kills. v2 only. */
  memoryHighBytes?: number | undefined;
  /** Cores of CPU time per second, such as 0.5; undefined means no quota. */
  cpuCores?: number | undefined;
  /** What may be saved up of an unused quota and spent in a later period; at most the quota. */
  cpuBurstCores?: number | undefined;
  /** Share under contention on the v2 scale, 1..10000; 100 when left out. */
  cpuWeight?: number | undefined;
  /** Tasks: processes and their threads. */
  pidsMax: number;
  /** Of the one disk that the driver was opened with. What comes from memory is not counted. */
  io?: IoLimits | undefined;
}

/** Those left out are without limit. */
export interface IoLimits {
  readBytesPerSecond?: number | undefined;
  writeBytesPerSecond?: number | undefined;
  readOpsPerSecond?: number | undefined;
  writeOpsPerSecond?: number | undefined;
}

/** Which of the limits that not every kernel has can be set here. */
export interface OptionalLimits {
  cpuBurst: boolean;
  memoryHigh: boolean;
  io: boolean;
  /**
   * Whether limits of `io` hold for what is written to memory and goes to the disk later, too. On
   * v1 the kernel writes that in its own name (Documentation/admin-guide/cgroup-v1/
   * blkio-controller.rst); on v2 in that of who wrote it, on ext4, btrfs and xfs.
   */
  ioBuffered: boolean;
}

/** The kernel's default, on the v2 scale. */
export const defaultCpuWeight = 100;
/** The kernel's default period, which we never change. */
export const cpuPeriodUs = 100_000;

const memoryBytesMin = 1024 * 1024;
/** The kernel refuses quotas below a millisecond. */
const cpuCoresMin = 1000 / cpuPeriodUs;
const cpuCoresMax = 1_000_000;
export const cpuWeightMax = 10_000;
const defaultShares = 1024;
/** PID_MAX_LIMIT of the kernel. */
const pidsMaxMax = 4_194_304;

/**
 * Throws `host.config_invalid` with the first limit that no kernel would take, `host.unsupported`
 * with the first one that this kernel does not have.
 */
export function checkLimits(limits: CgroupLimits, optional: OptionalLimits): void {
  const { memoryBytes, cpuCores, cpuWeight, pidsMax } = limits;
  refuseUnless('memoryBytes', memoryBytes, isWhole(memoryBytes, memoryBytesMin));
  refuseUnless('pidsMax', pidsMax, isWhole(pidsMax, 1, pidsMaxMax));
  if (cpuCores !== undefined)
    refuseUnless('cpuCores', cpuCores, cpuCores >= cpuCoresMin && cpuCores <= cpuCoresMax);
  if (cpuWeight !== undefined)
    refuseUnless('cpuWeight', cpuWeight, isWhole(cpuWeight, 1, cpuWeightMax));
  checkOptionalLimits(limits, optional);
}

function checkOptionalLimits(limits: CgroupLimits, optional: OptionalLimits): void {
  const { memoryBytes, memoryHighBytes, cpuCores, cpuBurstCores = 0, io } = limits;
  refuseUnless(
    'cpuBurstCores',
    cpuBurstCores,
    cpuBurstCores === 0 || (cpuBurstCores > 0 && cpuBurstCores <= (cpuCores ?? 0)),
  );
  if (cpuBurstCores > 0) refuseMissing('cpuBurstCores', optional.cpuBurst);
  if (memoryHighBytes !== undefined) {
    const valid = isWhole(memoryHighBytes, memoryBytesMin, memoryBytes);
    refuseUnless('memoryHighBytes', memoryHighBytes, valid);
    refuseMissing('memoryHighBytes', optional.memoryHigh);
  }
  const ofIo = Object.values(io ?? {}).filter((value) => value !== undefined);
  for (const value of ofIo) refuseUnless('io', value, isWhole(value, 1));
  if (ofIo.length > 0) refuseMissing('io', optional.io);
}

/** CPU time per period in microseconds. */
export function quotaUsOf(cpuCores: number): number {
  return Math.round(cpuCores * cpuPeriodUs);
}

/**
 * v2 weight as v1 shares, in proportion: both kernels divide a CPU by the ratio of the numbers, so
 * twice the weight has to be twice the shares. The curve by which OCI runtimes make weights of the
 * shares that they are given fits the ends of both scales instead, and so changes every ratio: of
 * 1024 : 512 : 256 it makes 100 : 59 : 35. Nobody gives us shares.
 */
export function sharesOfWeight(weight: number): number {
  return Math.round((weight * defaultShares) / defaultCpuWeight);
}

function isWhole(value: number, min: number, max = Number.MAX_SAFE_INTEGER): boolean {
  return Number.isSafeInteger(value) && value >= min && value <= max;
}

function refuseUnless(name: keyof CgroupLimits, value: number, valid: boolean): void {
  if (valid) return;
  throw new HatchError('host.config_invalid', `Cannot limit a cgroup: ${name} is ${value}`, {
    details: { limit: name, value },
  });
}

function refuseMissing(name: keyof CgroupLimits, offered: boolean): void {
  if (offered) return;
  throw new HatchError(
    'host.unsupported',
    `Cannot limit a cgroup: ${name} is not among what this machine's control groups offer`,
    { details: { limit: name } },
  );
}
