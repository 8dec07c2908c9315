/** cgroup v2: a group is one directory with the files of all controllers. */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { HatchError } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import type { CgroupUsage, OomKills } from './cgroup.ts';
import { type ControlFiles, fieldOf } from './control-files.ts';
import { noOomKills, type Layout } from './layout.ts';
import {
  type CgroupLimits,
  cpuPeriodUs,
  defaultCpuWeight,
  type IoLimits,
  type OptionalLimits,
  quotaUsOf,
} from './limits.ts';
import { makeParent } from './parent.ts';

export type V2Controller = 'cpu' | 'memory' | 'pids';
const allControllers: readonly V2Controller[] = ['cpu', 'memory', 'pids'];

/**
 * Makes the parent and switches its controllers on, from the root down. `controllers` is all of
 * them but for the controller-less cgroup2 tree of a hybrid machine, where it is empty: limits are
 * then v1's matter. Throws `host.unsupported` with the names of those that the kernel lacks.
 */
export function openV2Layout(options: {
  root: string;
  parent: string;
  files: ControlFiles;
  disk?: string | undefined;
  controllers?: readonly V2Controller[];
}): Layout {
  const { root, files, disk } = options;
  const controllers = options.controllers ?? allControllers;
  const offered = files.read(join(root, 'cgroup.controllers')).trim().split(' ');
  const missing = controllers.filter((name) => !offered.includes(name));
  if (missing.length > 0)
    throw new HatchError(
      'host.unsupported',
      `Cannot use cgroup v2 on "${root}": it does not offer the controllers ` +
        `${missing.join(', ')}; switch them on above it (a unit does so by Delegate=yes)`,
    );
  const parent = join(root, options.parent);
  makeParent(files, parent);
  if (controllers.length > 0) {
    const withIo = disk !== undefined && offered.includes('io') ? ['io'] : [];
    const enable = [...controllers, ...withIo].map((name) => `+${name}`).join(' ');
    for (const path of [root, parent]) files.write(join(path, 'cgroup.subtree_control'), enable);
  }
  return new V2Layout({ files, parent, controllers: new Set(controllers), disk });
}

class V2Layout implements Layout {
  readonly joinFile = 'cgroup.procs';
  readonly parents: readonly string[];
  readonly #files: ControlFiles;
  readonly #parent: string;
  readonly #controllers: ReadonlySet<V2Controller>;
  readonly #disk: string | undefined;
  readonly optional: OptionalLimits;
  /** Kernels without swap have no such file. */
  readonly #limitsSwap: boolean;

  constructor(options: {
    files: ControlFiles;
    parent: string;
    controllers: ReadonlySet<V2Controller>;
    disk: string | undefined;
  }) {
    const { files, parent, controllers, disk } = options;
    this.#files = files;
    this.#parent = parent;
    this.parents = [parent];
    this.#controllers = controllers;
    this.#disk = disk;
    const has = (file: string): boolean => existsSync(join(parent, file));
    this.#limitsSwap = has('memory.swap.max');
    this.optional = {
      cpuBurst: has('cpu.max.burst'),
      memoryHigh: has('memory.high'),
      io: disk !== undefined && has('io.max'),
      ioBuffered: disk !== undefined && has('io.max'),
    };
  }

  writeLimits(name: string, limits: CgroupLimits, previous: CgroupLimits | undefined): void {
    if (this.#controllers.has('memory')) this.#writeMemory(name, limits, previous);
    if (this.#controllers.has('pids') && limits.pidsMax !== previous?.pidsMax)
      this.#write(name, 'pids.max', String(limits.pidsMax));
    if (this.#controllers.has('cpu')) this.#writeCpu(name, limits, previous);
    const [io, ioBefore] = [limits.io, previous?.io].map(ioText);
    if (io !== ioBefore) this.#write(name, 'io.max', `${this.#disk} ${io}`);
  }

  kernelId(name: string): bigint {
    return statSync(join(this.#parent, name), { bigint: true }).ino;
  }

  usage(name: string): CgroupUsage {
    const memoryBytes = this.#readNumber(name, 'memory.current');
    return {
      memoryBytes,
      memoryPeakBytes: this.#readPeak(name) ?? memoryBytes,
      cpuUsageUs: fieldOf(this.#read(name, 'cpu.stat'), 'usage_usec'),
      pids: this.#readNumber(name, 'pids.current'),
    };
  }

  oomKills(name: string): OomKills {
    if (!this.#controllers.has('memory')) return noOomKills;
    const events = this.#read(name, 'memory.events');
    // `oom` counts those of the group's own limit, `oom_kill` whoever died in it, for any reason.
    const scope = fieldOf(events, 'oom') > 0 ? 'cgroup' : 'system';
    return { count: fieldOf(events, 'oom_kill'), scope };
  }

  freeze(name: string): void {
    this.#write(name, 'cgroup.freeze', '1');
  }

  isFrozen(name: string): boolean {
    return fieldOf(this.#read(name, 'cgroup.events'), 'frozen') === 1;
  }

  thaw(name: string): void {
    this.#write(name, 'cgroup.freeze', '0');
  }

  kill(name: string): void {
    try {
      // The whole subtree, safe against forks, and frozen tasks die too.
      this.#write(name, 'cgroup.kill', '1');
    } catch (error) {
      if (!isErrno(error, 'ENOENT', 'ENODEV') || existsSync(join(this.#parent, name))) throw error;
    }
  }

  #writeMemory(name: string, limits: CgroupLimits, previous: CgroupLimits | undefined): void {
    if (limits.memoryBytes !== previous?.memoryBytes) this.#writeMemoryMax(name, limits, previous);
    if (limits.memoryHighBytes !== previous?.memoryHighBytes)
      this.#write(name, 'memory.high', String(limits.memoryHighBytes ?? 'max'));
  }

  #writeMemoryMax(name: string, limits: CgroupLimits, previous: CgroupLimits | undefined): void {
    if (previous === undefined) {
      if (this.#limitsSwap) this.#write(name, 'memory.swap.max', '0');
    } else if (this.#readNumber(name, 'memory.current') > limits.memoryBytes) {
      // v2 takes any limit and kills to make it true; v1 answers EBUSY, and so do we.
      throw Object.assign(new Error('EBUSY: more memory is in use'), { code: 'EBUSY' });
    }
    this.#write(name, 'memory.max', String(limits.memoryBytes));
  }

  #writeCpu(name: string, limits: CgroupLimits, previous: CgroupLimits | undefined): void {
    const burstUs = quotaUsOf(limits.cpuBurstCores ?? 0);
    const burstUsBefore = quotaUsOf(previous?.cpuBurstCores ?? 0);
    // At every moment burst <= quota must hold.
    if (burstUs < burstUsBefore) this.#write(name, 'cpu.max.burst', String(burstUs));
    if (limits.cpuCores !== previous?.cpuCores) {
      const quota = limits.cpuCores === undefined ? 'max' : quotaUsOf(limits.cpuCores);
      this.#write(name, 'cpu.max', `${quota} ${cpuPeriodUs}`);
    }
    if (burstUs > burstUsBefore) this.#write(name, 'cpu.max.burst', String(burstUs));
    const weight = limits.cpuWeight ?? defaultCpuWeight;
    if (weight !== (previous?.cpuWeight ?? defaultCpuWeight))
      this.#write(name, 'cpu.weight', String(weight));
  }

  #readPeak(name: string): number | undefined {
    try {
      return this.#readNumber(name, 'memory.peak');
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return undefined;
      throw error;
    }
  }

  #write(name: string, file: string, value: string): void {
    this.#files.write(`${this.#parent}/${name}/${file}`, value);
  }

  #read(name: string, file: string): string {
    return this.#files.read(`${this.#parent}/${name}/${file}`);
  }

  #readNumber(name: string, file: string): number {
    return Number(this.#read(name, file));
  }
}

function ioText(io: IoLimits | undefined): string {
  const { readBytesPerSecond, writeBytesPerSecond, readOpsPerSecond, writeOpsPerSecond } = io ?? {};
  return [
    `rbps=${readBytesPerSecond ?? 'max'}`,
    `wbps=${writeBytesPerSecond ?? 'max'}`,
    `riops=${readOpsPerSecond ?? 'max'}`,
    `wiops=${writeOpsPerSecond ?? 'max'}`,
  ].join(' ');
}
