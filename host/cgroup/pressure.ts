/**
 * Pressure stall information: in which share of the last ten seconds tasks waited for CPU or memory
 * (https://docs.kernel.org/accounting/psi.html), of the whole machine.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Percent. */
export interface MachinePressure {
  cpuSome: number;
  memorySome: number;
  memoryFull: number;
}

/** Undefined where the kernel does not tell: built without it, or started with `psi=0`. */
export function readPressure(directory = '/proc/pressure'): MachinePressure | undefined {
  try {
    const cpu = readFileSync(join(directory, 'cpu'), 'latin1');
    const memory = readFileSync(join(directory, 'memory'), 'latin1');
    return {
      cpuSome: average(cpu, 'some'),
      memorySome: average(memory, 'some'),
      memoryFull: average(memory, 'full'),
    };
  } catch {
    return undefined;
  }
}

/** Of lines such as `some avg10=1.53 avg60=0.87 avg300=0.64 total=63655793`. */
function average(text: string, kind: 'some' | 'full'): number {
  return Number(new RegExp(`^${kind} avg10=([\\d.]+)`, 'm').exec(text)?.[1] ?? 0);
}
