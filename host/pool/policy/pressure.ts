/**
 * What to give up when the machine is short of CPU or memory, from the kernel's pressure stall
 * information and from what memory is left.
 */
import type { MachinePressure } from '../../cgroup/pressure.ts';

export interface PressureResponse {
  /** Of the configured rate at which containers are made ahead: 1 at ease, 0 under pressure. */
  refillShare: number;
  /** Of the memory of idle instances, and of what is parked, how much to give back now. */
  idleShare: number;
}

export function respondTo(pressure: MachinePressure): PressureResponse {
  const { cpuSome, memorySome, memoryFull, memoryBytes, availableBytes } = pressure;
  const cpu = between(cpuSome, { least: 20, most: 60 });
  const stalls = Math.max(
    between(memorySome, { least: 1, most: 20 }),
    between(memoryFull, { least: 0.5, most: 10 }),
  );
  // With more to be had, who stalls does so in a limit of its own: nobody else can help it.
  const isTight = availableBytes < tightShare * memoryBytes;
  const reserveBytes = Math.min(reserveShare * memoryBytes, reserveBytesMax);
  const want = between(reserveBytes - availableBytes, { least: 0, most: reserveBytes / 2 });
  const memory = Math.max(want, isTight ? stalls : 0);
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
const tightShare = 0.25;
/**
 * Below it idle memory is given back, all of what is asked for from half of it on. Without swap
 * the kernel kills as soon as there is none left, and nobody has stalled before.
 */
const reserveShare = 0.08;
const reserveBytesMax = 2 ** 30;
