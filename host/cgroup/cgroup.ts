/**
 * Control groups: what an instance may use, and the handle by which it is stopped.
 *
 * A *driver* owns one parent group (`hatchery-<id>`) and everything below it, and touches no other
 * group. On cgroup v1 a group is one directory in each controller's hierarchy, on v2 it is one
 * directory; who uses a `Cgroup` cannot tell. A group's life:
 *
 *     create(name, limits)   the group exists, all limits are in force, nothing is in it
 *       -> the child writes "0" into each of joinFds, by itself; closeJoinFds()
 *       -> setLimits, usage, freeze, thaw, as often as needed
 *       -> kill()            everything in it gets SIGKILL, frozen or not
 *     remove()               the group is gone
 *
 * What every driver promises:
 *  - No process is ever in a group without its limits.
 *  - Past `memoryBytes` the kernel reclaims, then kills the worst process *in this group only*, and
 *    `oomKills()` counts it, with scope `cgroup`. There is no swap to hide in. A process that was
 *    killed because memory was short outside of the group is counted with scope `system`.
 *  - A limit that this machine cannot set (see `optional`) is refused, never ignored.
 *  - `create` refuses a name that is in use, and a group with processes or groups in it. It is
 *    synchronous since it lies on the path of a start: well under 0.3 ms.
 *  - `freeze` resolves when nothing in the group runs any more, or somebody wanted it to run or to
 *    end meanwhile; a group that does not freeze in time is thawed again. `freeze`, `thaw`, `kill`,
 *    `closeJoinFds` may be repeated.
 *  - `remove` kills what is left, and waits for it. The first one resolves to true, later ones to
 *    false. After it `oomKills()` keeps its last value; everything else throws.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { HatchError } from '../base/errors.ts';
import { type ControlFiles, controlFiles } from './control-files.ts';
import { ManagedDriver } from './driver.ts';
import type { CgroupLimits, OptionalLimits } from './limits.ts';
import { openV1Layout } from './v1.ts';
import { openV2Layout } from './v2.ts';

export type { CgroupLimits, OptionalLimits } from './limits.ts';

export interface CgroupUsage {
  memoryBytes: number;
  /** The most it ever was; on kernels that do not tell (v2 before 5.19), what it is now. */
  memoryPeakBytes: number;
  cpuUsageUs: number;
  /** Tasks: processes and their threads. */
  pids: number;
}

export interface OomKills {
  /** Processes of the group that the kernel has killed for want of memory. */
  count: number;
  /**
   * Where it was short, if any were: `cgroup` when the group had reached its own limit, also if
   * that was earlier: the kernel counts, and does not say when.
   */
  scope: 'cgroup' | 'system';
}

export interface Cgroup {
  readonly name: string;
  /** What eBPF programs call it; undefined on v1, whose groups they do not see. */
  kernelId(): bigint | undefined;
  /**
   * Close-on-exec descriptors that the joining child writes "0" into, in this order. The child has
   * to do it itself, while it has one thread: that is the one way on v1 which does not take the
   * kernel's global lock, and so does not wait an RCU grace period (0.02 ms instead of 11 ms).
   */
  readonly joinFds: readonly number[];
  closeJoinFds(): void;
  /** Writes only what changed. Throws if memory in use does not fit the new limit. */
  setLimits(limits: CgroupLimits): void;
  usage(): CgroupUsage;
  oomKills(): OomKills;
  freeze(): Promise<void>;
  thaw(): void;
  kill(): void;
  /** Process ids, as seen from the host. */
  pids(): number[];
  /** True if this call removed it; throws `host.cleanup_failed` if processes outlive SIGKILL. */
  remove(): Promise<boolean>;
}

export interface CgroupDriver {
  readonly layout: CgroupLayout;
  /** What else can be limited here. */
  readonly optional: OptionalLimits;
  create(name: string, limits: CgroupLimits): Cgroup;
  /** Kills and removes every group below the parent, also those of an earlier run. */
  removeAll(): Promise<void>;
  /** As `removeAll`, and the parent too. */
  close(): Promise<void>;
}

/** `hybrid`: the controllers are v1's, and a cgroup2 tree without controllers is beside them. */
export type CgroupLayout = 'v2' | 'v1' | 'hybrid';

export const defaultRoot = '/sys/fs/cgroup';

/** Throws `host.unsupported` if there are no control groups below `root`. */
export function detectCgroupLayout(root: string = defaultRoot): CgroupLayout {
  if (existsSync(join(root, 'cgroup.controllers'))) return 'v2';
  if (!existsSync(join(root, 'memory', 'tasks')))
    throw new HatchError('host.unsupported', `Cannot find control groups: mount them on "${root}"`);
  return existsSync(join(root, 'unified', 'cgroup.controllers')) ? 'hybrid' : 'v1';
}

/**
 * Opens the driver for this machine and makes the parent group. `parent` is a plain name, such as
 * `hatchery-1a2b`; what an earlier run left below it stays until `removeAll`. `root` is what
 * `enterSubtree` gave. `disk` is the device that limits of `io` are for, as "major:minor"; without
 * it there are none.
 */
export function openCgroupDriver(options: {
  root?: string;
  parent: string;
  disk?: string | undefined;
  files?: ControlFiles;
}): CgroupDriver {
  const { disk } = options;
  const root = options.root ?? defaultRoot;
  const files = options.files ?? controlFiles;
  const kind = detectCgroupLayout(root);
  // On hybrid the cgroup2 tree would bring cgroup.kill. But entering that takes the global lock,
  // and frozen by v1 nothing escapes either: the contract has a test with processes that try.
  const open = kind === 'v2' ? openV2Layout : openV1Layout;
  return new ManagedDriver(
    kind,
    files,
    (parent) => open({ root, parent, files, disk }),
    options.parent,
  );
}
