/**
 * How short the machine is of CPU and memory: in which share of the last ten seconds tasks waited
 * for them (https://docs.kernel.org/accounting/psi.html), and how much memory there is yet to be
 * had. The first alone misleads: a process that keeps running into the limit of its own group
 * stalls on a machine with memory to spare, and where nothing can be swapped out memory ends
 * before anybody has waited for it.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { defaultRoot } from './cgroup.ts';
import { fieldOf } from './control-files.ts';

export interface MachinePressure {
  /** Percent; 0 where the kernel does not tell. */
  cpuSome: number;
  memorySome: number;
  memoryFull: number;
  /** What this host can have at most, by the machine or by a limit above its groups. */
  memoryBytes: number;
  /** Of that, what can be had without anybody missing it, page cache included. */
  availableBytes: number;
}

export interface PressureOptions {
  pressureDirectory?: string;
  memoryFile?: string;
  /** The mount of cgroup v2, and the group in it that the host's own are in. */
  root?: string;
  group?: string;
}

type Memory = Pick<MachinePressure, 'memoryBytes' | 'availableBytes'>;

const directoryDefault = '/proc/pressure';

/** Whether the kernel tells of stalls: built with that, and not started with `psi=0`. */
export function tellsOfPressure(pressureDirectory = directoryDefault): boolean {
  return read(join(pressureDirectory, 'memory')) !== undefined;
}

export function readPressure(options: PressureOptions = {}): MachinePressure {
  const { pressureDirectory = directoryDefault, memoryFile = '/proc/meminfo' } = options;
  const { root = defaultRoot, group = root } = options;
  const cpu = read(join(pressureDirectory, 'cpu')) ?? '';
  const memory = read(join(pressureDirectory, 'memory')) ?? '';
  const limits = [machineMemory(read(memoryFile) ?? ''), ...groupLimits(root, group)];
  const tightest = limits.reduce((least, one) =>
    one.availableBytes / one.memoryBytes < least.availableBytes / least.memoryBytes ? one : least,
  );
  return {
    cpuSome: average(cpu, 'some'),
    memorySome: average(memory, 'some'),
    memoryFull: average(memory, 'full'),
    ...tightest,
  };
}

/** Of lines such as `some avg10=1.53 avg60=0.87 avg300=0.64 total=63655793`. */
function average(text: string, kind: 'some' | 'full'): number {
  return Number(new RegExp(`^${kind} avg10=([\\d.]+)`, 'm').exec(text)?.[1] ?? 0);
}

/** Of lines such as `MemAvailable:    3828480 kB`: see proc(5). */
function machineMemory(text: string): Memory {
  const bytes = (name: string): number | undefined => {
    const kB = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1];
    return kB === undefined ? undefined : Number(kB) * 1024;
  };
  const memoryBytes = bytes('MemTotal');
  const availableBytes = bytes('MemAvailable');
  // As at ease: nothing is given up by guesswork.
  if (memoryBytes === undefined || availableBytes === undefined)
    return { memoryBytes: Number.MAX_SAFE_INTEGER, availableBytes: Number.MAX_SAFE_INTEGER };
  return { memoryBytes, availableBytes };
}

/** From the group up: limits of a unit, of its slice, of the container around all. */
function groupLimits(root: string, group: string): Memory[] {
  const found: Memory[] = [];
  for (let path = group; path.startsWith(root); path = dirname(path)) {
    const memoryBytes = Number(read(join(path, 'memory.max')) ?? 'max');
    if (!(memoryBytes > 0)) continue;
    const stat = read(join(path, 'memory.stat')) ?? '';
    const cache = fieldOf(stat, 'active_file') + fieldOf(stat, 'inactive_file');
    const usedBytes = Number(read(join(path, 'memory.current')) ?? 0) - cache;
    found.push({ memoryBytes, availableBytes: Math.max(memoryBytes - usedBytes, 0) });
  }
  return found;
}

/** Undefined also where the file is there and reading it is refused, as PSI does with `psi=0`. */
function read(path: string): string | undefined {
  try {
    return existsSync(path) ? readFileSync(path, 'latin1') : undefined;
  } catch {
    return undefined;
  }
}
