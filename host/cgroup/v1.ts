/** cgroup v1: a group is a directory of the same name in the hierarchy of each controller. */
import { existsSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { HatchError } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import type { CgroupUsage } from './cgroup.ts';
import { type ControlFiles, fieldOf } from './control-files.ts';
import type { Layout } from './layout.ts';
import { type CgroupLimits, defaultCpuWeight, quotaUsOf, sharesOfWeight } from './limits.ts';
import { makeParent } from './parent.ts';

const controllers = ['memory', 'pids', 'cpu', 'cpuacct', 'freezer'] as const;
type Controller = (typeof controllers)[number];

/** A frozen group cannot fork, so one round is the rule; more is for a freezer that lags. */
const killRoundsMax = 100;

/** Throws `host.unsupported` with the names of the controllers that are not mounted. */
export function openV1Layout(options: {
  root: string;
  parent: string;
  files: ControlFiles;
}): Layout {
  const missing = controllers.filter((name) => !existsSync(join(options.root, name)));
  if (missing.length > 0)
    throw new HatchError(
      'host.unsupported',
      `Cannot use cgroup v1: mount the controllers ${missing.join(', ')} on "${options.root}"`,
    );
  const paths = new Map<Controller, string>();
  for (const name of controllers)
    // Controllers may share a hierarchy (cpu and cpuacct often do), which is then joined once.
    paths.set(name, join(realpathSync(join(options.root, name)), options.parent));
  const parents = [...new Set(paths.values())];
  for (const path of parents) makeParent(options.files, path);
  return new V1Layout(options.files, parents, paths);
}

class V1Layout implements Layout {
  readonly joinFile = 'tasks';
  readonly parents: readonly string[];
  readonly #files: ControlFiles;
  readonly #paths: ReadonlyMap<Controller, string>;
  /** Kernels without swap accounting have no memsw files. */
  readonly #limitsSwap: boolean;

  constructor(
    files: ControlFiles,
    parents: readonly string[],
    paths: ReadonlyMap<Controller, string>,
  ) {
    this.#files = files;
    this.parents = parents;
    this.#paths = paths;
    const memory = paths.get('memory') ?? '';
    this.#limitsSwap = existsSync(join(memory, 'memory.memsw.limit_in_bytes'));
  }

  writeLimits(name: string, limits: CgroupLimits, previous: CgroupLimits | undefined): void {
    if (limits.memoryBytes !== previous?.memoryBytes) this.#writeMemory(name, limits, previous);
    if (limits.pidsMax !== previous?.pidsMax) this.#write('pids', name, 'pids.max', limits.pidsMax);
    if (limits.cpuCores !== previous?.cpuCores) {
      const quotaUs = limits.cpuCores === undefined ? -1 : quotaUsOf(limits.cpuCores);
      this.#write('cpu', name, 'cpu.cfs_quota_us', quotaUs);
    }
    const weight = limits.cpuWeight ?? defaultCpuWeight;
    if (weight !== (previous?.cpuWeight ?? defaultCpuWeight))
      this.#write('cpu', name, 'cpu.shares', sharesOfWeight(weight));
  }

  usage(name: string): CgroupUsage {
    return {
      memoryBytes: this.#readNumber('memory', name, 'memory.usage_in_bytes'),
      memoryPeakBytes: this.#readNumber('memory', name, 'memory.max_usage_in_bytes'),
      cpuUsageUs: Math.floor(this.#readNumber('cpuacct', name, 'cpuacct.usage') / 1000),
      pids: this.#readNumber('pids', name, 'pids.current'),
    };
  }

  oomKills(name: string): number {
    // memory.failcnt is no substitute: it stays 0 when the memsw limit was hit.
    return fieldOf(this.#read('memory', name, 'memory.oom_control'), 'oom_kill');
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
