/**
 * Where groups may be made on cgroup v2. A manager such as systemd owns the tree and delegates a
 * subtree of it to a service; whoever makes groups elsewhere gets into its way. In a group below
 * which controllers are on there may be no process, so who lives in a subtree first moves its own
 * processes into a leaf of it, `supervisor`. On cgroup v1 nothing is delegated.
 */
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import process from 'node:process';
import { HatchError } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import { getAttribute } from '../sys/file.ts';
import { defaultRoot, detectCgroupLayout } from './cgroup.ts';
import { type ControlFiles, controlFiles } from './control-files.ts';
import { makeParent } from './parent.ts';

export interface SubtreeOptions {
  /** Where the tree is mounted. */
  root?: string;
  files?: ControlFiles;
  /** Of this process, from the mount down, such as "/system.slice/hatch.service". */
  ownGroup?: string;
  /** Whether this process is what a unit of systemd has started. */
  isService?: boolean;
  isDelegated?: (path: string) => boolean;
}

/** The name that systemd's documentation uses, so that `DelegateSubgroup=` can take it over. */
const leafName = 'supervisor';
const moveRoundsMax = 100;

/**
 * The directory that `openCgroupDriver` takes as its `root`: the subtree that this process was
 * given, or, started by hand, the whole tree. Throws `host.unsupported` in a service that was given
 * none.
 */
export function enterSubtree(options: SubtreeOptions = {}): string {
  const { root = defaultRoot, files = controlFiles } = options;
  if (detectCgroupLayout(root) !== 'v2') return root;
  const subtree = findSubtree(root, options);
  // Only the root of the whole tree has no type, and there processes may stay.
  if (subtree !== undefined && existsSync(join(subtree, 'cgroup.type'))) vacate(files, subtree);
  return subtree ?? root;
}

function findSubtree(root: string, options: SubtreeOptions): string | undefined {
  const { ownGroup = readOwnGroup(), isDelegated = isMarkedDelegated } = options;
  const { isService = process.env['SYSTEMD_EXEC_PID'] === String(process.pid) } = options;
  // "/" is the top of our cgroup namespace: of the machine, or what a container was given.
  const isOurs = (group: string): boolean => group === '/' || isDelegated(join(root, group));
  const above = dirname(ownGroup);
  const inLeaf = basename(ownGroup) === leafName && isOurs(above);
  for (const group of inLeaf ? [above] : [ownGroup])
    if (isOurs(group)) return group === '/' ? root : join(root, group);
  if (!isService) return undefined;
  throw new HatchError(
    'host.unsupported',
    `Cannot make control groups in "${ownGroup}": set Delegate=yes in the unit that starts the ` +
      'host, as ops/systemd/hatch.service does',
  );
}

function readOwnGroup(): string {
  // Of a removed group the kernel adds " (deleted)": then there is nothing to find there.
  return /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'latin1'))?.[1] ?? '/';
}

/** As systemd marks what it delegates, since version 251 for everyone to read. */
function isMarkedDelegated(path: string): boolean {
  if (!existsSync(path)) return false;
  return ['user.delegate', 'trusted.delegate'].some(
    (name) => getAttribute(path, name)?.toString() === '1',
  );
}

/** Moves every process of a group into its leaf: those of who started us are there, too. */
function vacate(files: ControlFiles, subtree: string): void {
  const leaf = join(subtree, leafName);
  makeParent(files, leaf);
  for (let round = 0; round < moveRoundsMax; round += 1) {
    const pids = files.read(join(subtree, 'cgroup.procs')).split('\n').filter(Boolean);
    if (pids.length === 0) return;
    for (const pid of pids) move(files, leaf, pid);
  }
  throw new HatchError(
    'host.unsupported',
    `Cannot move the processes of "${subtree}" into "${leaf}": start the host in a group ` +
      'of its own',
  );
}

function move(files: ControlFiles, group: string, pid: string): void {
  // 0 stands for a process outside of our pid namespace; to write it would move ourselves.
  if (pid === '0') return;
  try {
    files.write(join(group, 'cgroup.procs'), pid);
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw error;
  }
}
