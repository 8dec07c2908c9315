/** What differs between cgroup v1 and v2. The driver does the rest once, for both. */
import type { CgroupUsage, OomKills } from './cgroup.ts';
import type { CgroupLimits, OptionalLimits } from './limits.ts';

/** Where nobody was killed there was no shortage. */
export const noOomKills: OomKills = { count: 0, scope: 'cgroup' };

export interface Layout {
  /** Our parent directory in every hierarchy that we use: one on v2, several on v1. */
  readonly parents: readonly string[];
  readonly optional: OptionalLimits;
  /** The file through which a task enters by writing "0". */
  readonly joinFile: 'tasks' | 'cgroup.procs';
  /** Writes what differs from `previous`; `undefined` means a new group with kernel defaults. */
  writeLimits(name: string, limits: CgroupLimits, previous: CgroupLimits | undefined): void;
  kernelId(name: string): bigint | undefined;
  usage(name: string): CgroupUsage;
  oomKills(name: string): OomKills;
  /** Asks for it; the kernel needs a moment until `isFrozen`. */
  freeze(name: string): void;
  isFrozen(name: string): boolean;
  thaw(name: string): void;
  /** Sends SIGKILL to everything in the group; the processes need a moment to go. */
  kill(name: string): void;
}
