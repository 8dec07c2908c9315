/** Limits in function.json: those that not every machine has, and what no two may say together. */
import { cpus } from 'node:os';
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import type { OptionalLimits } from '../cgroup/cgroup.ts';
import type { FunctionManifest, ManifestProblem } from './manifest.ts';

const bytesPerSecond = z.int().min(65_536).max(1_000_000_000_000).optional();
const opsPerSecond = z.int().min(1).max(1_000_000_000).optional();

export const optionalLimitFields = {
  memoryHighMb: z
    .int()
    .min(16)
    .max(65_536)
    .optional()
    .describe('From here on an instance is slowed down, before memoryMb ends it; cgroup v2'),
  cpuBurst: z
    .number()
    .min(0)
    .max(256)
    .default(0)
    .describe('Cores that an instance may use on top of cpu for 100 ms, if it used less before'),
  io: z
    .strictObject({
      readBytesPerSecond: bytesPerSecond,
      writeBytesPerSecond: bytesPerSecond,
      readOpsPerSecond: opsPerSecond,
      writeOpsPerSecond: opsPerSecond,
    })
    .optional()
    .describe(
      'Of the disk with the state directory; what stays in memory is not counted, nor on cgroup ' +
        'v1 a write that is neither direct nor followed by fsync',
    ),
};

/** Limits that are right one by one and not together. */
export function contradictions(manifest: FunctionManifest): ManifestProblem[] {
  const { memoryMb, memoryHighMb, cpu, cpuBurst } = manifest;
  const problems: ManifestProblem[] = [];
  if (memoryHighMb !== undefined && memoryHighMb >= memoryMb)
    problems.push({
      path: 'memoryHighMb',
      message: `must be below memoryMb, which is ${memoryMb}`,
    });
  if (cpuBurst > cpu)
    problems.push({ path: 'cpuBurst', message: `must be at most cpu, which is ${cpu}` });
  return problems;
}

/** What one machine has for functions. */
export interface Machine {
  cores: number;
  /** For all instances together. */
  memoryMb: number;
  /** Processes and threads at a time. */
  pidsMax: number;
  limits: OptionalLimits;
}

export function thisMachine(given: Pick<Machine, 'memoryMb' | 'limits'>): Machine {
  return {
    ...given,
    cores: cpus().length,
    pidsMax: Number(readFileSync('/proc/sys/kernel/pid_max', 'latin1')),
  };
}

/** Limits that this machine is too small for, or does not have. */
export function beyondMachine(manifest: FunctionManifest, machine: Machine): ManifestProblem[] {
  const { memoryMb, memoryHighMb, cpu, cpuBurst, pidsMax, io } = manifest;
  const { limits } = machine;
  const checks: [path: string, refused: boolean, message: string][] = [
    ['memoryMb', memoryMb > machine.memoryMb, `this host has ${machine.memoryMb} MiB`],
    ['cpu', cpu > machine.cores, `this machine has ${machine.cores} cores`],
    ['pidsMax', pidsMax > machine.pidsMax, `this machine has at most ${machine.pidsMax}`],
    ['memoryHighMb', memoryHighMb !== undefined && !limits.memoryHigh, 'needs cgroup v2'],
    ['cpuBurst', cpuBurst > 0 && !limits.cpuBurst, 'needs Linux 5.14'],
    [
      'io',
      io !== undefined && !limits.io,
      'needs the controller io or blkio, and one disk below the state directory',
    ],
  ];
  return checks.flatMap(([path, refused, message]) => (refused ? [{ path, message }] : []));
}
