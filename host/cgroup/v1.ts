/** cgroup v1: a group is a directory of the same name in the hierarchy of each controller. */
import { existsSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { HatchError } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import type { CgroupUsage, OomKills } from './cgroup.ts';
import { type ControlFiles, fieldOf } from './control-files.ts';
import { noOomKills, type Layout } from './layout.ts';
import {
  type CgroupLimits,
  defaultCpuWeight,
  type IoLimits,
  type OptionalLimits,
  quotaUsOf,
  sharesOfWeight,
} from './limits.ts';
import { makeParent } from './parent.ts';

const controllers = ['memory', 'pids', 'cpu', 'cpuacct', 'freezer'] as const;
type Controller = (typeof controllers)[number] | 'blkio';

/** A group whose next charge does not fit may be this far from its limit. */
const largestChargeBytes = 64 * 4096;

const throttleFiles: readonly [limit: keyof IoLimits, file: string][] = [
  ['readBytesPerSecond', 'blkio.throttle.read_bps_device'],
  ['writeBytesPerSecond', 'blkio.throttle.write_bps_device'],
  ['readOpsPerSecond', 'blkio.throttle.read_iops_device'],
  ['writeOpsPerSecond', 'blkio.throttle.write_iops_device'],
];

/** A frozen group cannot fork, so one round is the rule; more is for a freezer that lags. */
const killRoundsMax = 100;

/** Throws `host.unsupported` with the names of the controllers that are not mounted. */
export function openV1Layout(options: {
  root: string;
  parent: string;
  files: ControlFiles;
  disk?: string | undefined;
}): Layout {
  const missing = controllers.filter((name) => !existsSync(join(options.root, name)));
  if (missing.length > 0)
    throw new HatchError(
      'host.unsupported',
      `Cannot use cgroup v1: mount the controllers ${missing.join(', ')} on "${options.root}"`,
    );
  const paths = new Map<Controller, string>();
  // Joined whatever the disk is: who clears up after an earlier run need not know that run's disk.
  const throttles = existsSync(join(options.root, 'blkio', 'blkio.throttle.read_bps_device'));
  for (const name of throttles ? ([...controllers, 'blkio'] as const) : controllers)
    // Controllers may share a hierarchy (cpu and cpuacct often do), which is then joined once.
    paths.set(name, join(realpathSync(join(options.root, name)), options.parent));
  const parents = [...new Set(paths.values())];
  for (const path of parents) makeParent(options.files, path);
  return new V1Layout({ files: options.files, parents, paths, disk: options.disk });
}

class V1Layout implements Layout {
  readonly joinFile = 'tasks';
  readonly parents: readonly string[];
  readonly #files: ControlFiles;
  readonly #paths: ReadonlyMap<Controller, string>;
  readonly #disk: string | undefined;
  readonly optional: OptionalLimits;
  /** Kernels without swap accounting have no memsw files. */
  readonly #limitsSwap: boolean;

  constructor(options: {
    files: ControlFiles;
    parents: readonly string[];
    paths: ReadonlyMap<Controller, string>;
    disk: string | undefined;
  }) {
    const { files, parents, paths, disk } = options;
    this.#files = files;
    this.parents = parents;
    this.#paths = paths;
    this.#disk = disk;
    const has = (controller: Controller, file: string): boolean =>
      existsSync(join(paths.get(controller) ?? '', file));
    this.#limitsSwap = has('memory', 'memory.memsw.limit_in_bytes');
    this.optional = {
      cpuBurst: has('cpu', 'cpu.cfs_burst_us'),
      // v1's soft limit only says who is reclaimed from first; it slows nobody down.
      memoryHigh: false,
      io: disk !== undefined && paths.has('blkio'),
      ioBuffered: false,
    };
  }

  writeLimits(name: string, limits: CgroupLimits, previous: CgroupLimits | undefined): void {
    if (limits.memoryBytes !== previous?.memoryBytes) this.#writeMemory(name, limits, previous);
    if (limits.pidsMax !== previous?.pidsMax) this.#write('pids', name, 'pids.max', limits.pidsMax);
    this.#writeCpu(name, limits, previous);
    for (const [limit, file] of throttleFiles) {
      // 0 takes a limit away.
      const [value = 0, valueBefore = 0] = [limits.io?.[limit], previous?.io?.[limit]];
      if (value !== valueBefore) this.#write('blkio', name, file, `${this.#disk} ${value}`);
    }
  }

  #writeCpu(name: string, limits: CgroupLimits, previous: CgroupLimits | undefined): void {
    const burstUs = quotaUsOf(limits.cpuBurstCores ?? 0);
    const burstUsBefore = quotaUsOf(previous?.cpuBurstCores ?? 0);
    // At every moment burst <= quota must hold.
    if (burstUs < burstUsBefore) this.#write('cpu', name, 'cpu.cfs_burst_us', burstUs);
    if (limits.cpuCores !== previous?.cpuCores) {
      const quotaUs = limits.cpuCores === undefined ? -1 : quotaUsOf(limits.cpuCores);
      this.#write('cpu', name, 'cpu.cfs_quota_us', quotaUs);
    }
    if (burstUs > burstUsBefore) this.#write('cpu', name, 'cpu.cfs_burst_us', burstUs);
    const weight = limits.cpuWeight ?? defaultCpuWeight;
    if (weight !== (previous?.cpuWeight ?? defaultCpuWeight))
      this.#write('cpu', name, 'cpu.shares', sharesOfWeight(weight));
  }

  kernelId(): undefined {
    return undefined;
  }

  usage(name: string): CgroupUsage {
    return {
      memoryBytes: this.#readNumber('memory', name, 'memory.usage_in_bytes'),
      memoryPeakBytes: this.#readNumber('memory', name, 'memory.max_usage_in_bytes'),
      cpuUsageUs: Math.floor(this.#readNumber('cpuacct', name, 'cpuacct.usage') / 1000),
      pids: this.#readNumber('pids', name, 'pids.current'),
    };
  }

  oomKills(name: string): OomKills {
    const count = fieldOf(this.#read('memory', name, 'memory.oom_control'), 'oom_kill');
    if (count === 0) return noOomKills;
    // memory.failcnt would be the file to look at, but today's kernels leave it at 0.
    const reached = ['memory', ...(this.#limitsSwap ? ['memory.memsw'] : [])].some((kind) => {
      const most = this.#readNumber('memory', name, `${kind}.max_usage_in_bytes`);
      return (
        most >= this.#readNumber('memory', name, `${kind}.limit_in_bytes`) - largestChargeBytes
      );
    });
    return { count, scope: reached ? 'cgroup' : 'system' };
  }

  freeze(name: string): void {
    this.#write('freezer', name, 'freezer.state', 'FROZEN');
  }

  isFrozen(name: string): boolean {
    const state = this.#read('freezer', name, 'freezer.state').trim();
    // A task that was just forking can leave the group in FREEZING; asking again moves it on.
    if (state === 'FREEZING') this.freeze(name);
    return state === 'FROZEN';
  }

  thaw(name: string): void {
    this.#write('freezer', name, 'freezer.state', 'THAWED');
  }

  kill(name: string): void {
    // Frozen, nothing forks between our reading of the list and our signals.
    this.#ifPresent(() => this.freeze(name));
    const signalled = new Set<number>();
    for (let round = 0; round < killRoundsMax; round += 1) {
      const fresh = this.#pids(name).filter((pid) => !signalled.has(pid));
      if (fresh.length === 0) break;
      for (const pid of fresh) {
        signalled.add(pid);
        sendKill(pid);
      }
    }
    // A v1 frozen task dies only when it is thawed.
    this.#ifPresent(() => this.thaw(name));
  }

  /** Those of every hierarchy: a child may have been stopped in the middle of joining. */
  #pids(name: string): number[] {
    return this.parents.flatMap((parent) => this.#pidsBelow(join(parent, name)));
  }

  #pidsBelow(path: string): number[] {
    const pids = this.#ifPresent(() => {
      const text = this.#files.read(join(path, 'cgroup.procs'));
      const inner = this.#files.children(path);
      // 0 stands for a process outside of our pid namespace.
      const own = text
        .split('\n')
        .map(Number)
        .filter((pid) => pid > 0);
      return [...own, ...inner.flatMap((name) => this.#pidsBelow(join(path, name)))];
    });
    return pids ?? [];
  }

  #writeMemory(name: string, limits: CgroupLimits, previous: CgroupLimits | undefined): void {
    if (!this.#limitsSwap) {
      if (previous === undefined) this.#write('memory', name, 'memory.swappiness', 0);
      this.#write('memory', name, 'memory.limit_in_bytes', limits.memoryBytes);
      return;
    }
    const files = ['memory.limit_in_bytes', 'memory.memsw.limit_in_bytes'];
    // At every moment memory <= memory + swap must hold: grow the sum first, shrink it last.
    if (previous !== undefined && limits.memoryBytes > previous.memoryBytes) files.reverse();
    for (const file of files) this.#write('memory', name, file, limits.memoryBytes);
  }

  #ifPresent<T>(action: () => T): T | undefined {
    try {
      return action();
    } catch (error) {
      if (isErrno(error, 'ENOENT', 'ENODEV')) return undefined;
      throw error;
    }
  }

  #path(controller: Controller, name: string, file: string): string {
    return `${this.#paths.get(controller) ?? ''}/${name}/${file}`;
  }

  #write(controller: Controller, name: string, file: string, value: number | string): void {
    this.#files.write(this.#path(controller, name, file), String(value));
  }

  #read(controller: Controller, name: string, file: string): string {
    return this.#files.read(this.#path(controller, name, file));
  }

  #readNumber(controller: Controller, name: string, file: string): number {
    return Number(this.#read(controller, name, file));
  }
}

function sendKill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw error;
  }
}
