/**
 * What to give up when the machine is short of CPU or memory, from the kernel's pressure stall
 * information.
 */
import type { MachinePressure } from '../../cgroup/pressure.ts';

export interface PressureResponse {
  /** Of the configured rate at which containers are made ahead: 1 at ease, 0 under pressure. */
  refillShare: number;
  /** Of the memory of idle instances, how much to give back now. */
  idleShare: number;
}

export function respondTo({ cpuSome, memorySome, memoryFull }: MachinePressure): PressureResponse {
  const cpu = between(cpuSome, { least: 20, most: 60 });
  const memory = Math.max(
    between(memorySome, { least: 1, most: 20 }),
    between(memoryFull, { least: 0.5, most: 10 }),
  );
  const refillShare = Math.min(Math.max(1 - cpu, refillShareMin), 1 - memory);
  return { refillShare, idleShare: memory * idleShareMax };
}

/** 0 up to `least`, 1 from `most` on. */
function between(value: number, { least, most }: { least: number; most: number }): number {
  return Math.min(Math.max((value - least) / (most - least), 0), 1);
}

/** A busy CPU is no reason to stop: what is not made ahead is made while a call waits. */
const refillShareMin = 0.1;
/**
 * Taken once a second: two seconds of full pressure leave a quarter. systemd-oomd kills after 30 s
 * at 60 %; by then nothing idle is left.
 */
const idleShareMax = 0.5;
