/**
 * A container's /proc: read-only, so that no write to it reaches the kernel, and with an empty file
 * or directory over whatever tells of the machine and not of the container. Users and capabilities
 * refuse most of that already; this holds without them.
 */
import { closeSync, statSync } from 'node:fs';
import { attachMount, cloneMount, createMount, mountAttribute } from '../host/sys/mount.ts';

const { noSuid, noDev, noExec, readOnly } = mountAttribute;
export const procAttributes = noSuid | noDev | noExec | readOnly;
/** Empty, on a read-only mount; see `launch.ts`. */
const emptyFile = '/sys/masked/file';
const emptyDirectory = '/sys/masked/directory';

/** Below /proc; a kernel has some of them. */
export const maskedNames = [
  // How the machine was booted, and its hardware.
  'cmdline',
  'bootconfig',
  'acpi',
  'asound',
  'bus',
  'diskstats',
  'driver',
  'fs',
  'interrupts',
  'iomem',
  'ioports',
  'irq',
  'mdstat',
  'mtrr',
  'partitions',
  'scsi',
  'swaps',
  'sysrq-trigger',
  'tty',
  // Memory and layout of the kernel.
  'buddyinfo',
  'config.gz',
  'dynamic_debug',
  'kallsyms',
  'kcore',
  'kpagecgroup',
  'kpagecount',
  'kpageflags',
  'modules',
  'pagetypeinfo',
  'slabinfo',
  'vmallocinfo',
  'zoneinfo',
  // What others do.
  'key-users',
  'keys',
  'kmsg',
  'latency_stats',
  'pressure',
  'sched_debug',
  'schedstat',
  'softirqs',
  'timer_list',
  'timer_stats',
  // Would run a program of the container's choice for everybody.
  'sys/fs/binfmt_misc',
];

interface Mask {
  path: string;
  source: string;
}

/** What this kernel has of it is the same in every /proc: looked up once, by the zygote. */
let masks: Mask[] | undefined;

/**
 * Shows the pid namespace of the calling process, on /proc of its own mount namespace. The mount
 * may be moved by the descriptor, and takes what covers its parts along.
 */
export function mountProc(): number {
  const mountFd = createMount({ type: 'proc', options: [], attributes: procAttributes });
  attachMount(mountFd, '/proc');
  coverProc();
  return mountFd;
}

/** Covers what is to be hidden in /proc of the own mount namespace. */
export function coverProc(): void {
  masks ??= maskedNames.flatMap(maskOf);
  for (const { path, source } of masks) {
    const mountFd = cloneMount({ path: source, recursive: false });
    attachMount(mountFd, path);
    closeSync(mountFd);
  }
}

function maskOf(name: string): Mask[] {
  const path = `/proc/${name}`;
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) return [];
  return [{ path, source: found.isDirectory() ? emptyDirectory : emptyFile }];
}
