/**
 * What a container takes of the machine, whoever is charged for it: pages that only its processes
 * have, their page tables, and what the kernel holds for it. Its control group is charged less:
 * what was touched before a process joined the group stays the host's, for good.
 */
import { readFile } from 'node:fs/promises';

/** Bytes. Reading walks the processes' page tables, a millisecond each, in another thread. */
export async function containerMemory(pids: readonly number[]): Promise<number> {
  const sizes = await Promise.all(pids.map(processMemory));
  return sizes.reduce((sum, bytes) => sum + bytes, kernelBytes);
}

async function processMemory(pid: number): Promise<number> {
  const [pages, status] = await Promise.all(
    ['smaps_rollup', 'status'].map((name) => readFile(`/proc/${pid}/${name}`, 'latin1')),
  );
  const own = field(pages, 'Private_Clean') + field(pages, 'Private_Dirty');
  return own + field(status, 'VmPTE');
}

/** Of lines such as `Private_Dirty:   12 kB`. */
function field(text: string | undefined, name: string): number {
  const kiB = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text ?? '')?.[1];
  return Number(kiB ?? 0) * 1024;
}

/**
 * Tasks, mounts, namespaces, groups: the kernel does not tell whose they are. The mean of 200
 * instances, as `npm run bench -- memory` measures it.
 */
const kernelBytes = 600_000;
