/** What an idle instance costs, as the kernel counts it, beside a Node.js that was just started. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

export interface Memory {
  processes: number;
  /** Its share of everything: shared pages count in parts. */
  pssBytes: number;
  /** What is its own alone: what one more instance adds. */
  privateBytes: number;
}

const cgroupRoot = '/sys/fs/cgroup';

/** Of all processes of one container. */
export function memoryOfInstance(cgroupParent: string, instanceId: string): Memory {
  return memoryOf(processesIn(`${cgroupParent}/${instanceId}`));
}

/** Of a Node.js that has nothing to do. */
export async function memoryOfFreshNode(): Promise<Memory> {
  const script = 'setInterval(() => {}, 1e9); process.stdout.write(".")';
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'ignore'] });
  try {
    await once(child.stdout, 'data');
    return memoryOf(child.pid === undefined ? [] : [child.pid]);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}

/** The group has the same name in every hierarchy that it is in. */
function processesIn(group: string): number[] {
  const hierarchies = ['.', ...readdirSync(cgroupRoot)].map((name) => join(cgroupRoot, name));
  for (const hierarchy of hierarchies) {
    const file = join(hierarchy, group, 'cgroup.procs');
    if (existsSync(file)) return readFileSync(file, 'utf8').split('\n').filter(Boolean).map(Number);
  }
  throw new Error(`No control group "${group}" was found`);
}

function memoryOf(pids: readonly number[]): Memory {
  const memory = { processes: pids.length, pssBytes: 0, privateBytes: 0 };
  for (const pid of pids) {
    const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    for (const [, name, kB] of rollup.matchAll(/^(\w+):\s+(\d+) kB$/gm)) {
      if (name === 'Pss') memory.pssBytes += Number(kB) * 1024;
      if (name?.startsWith('Private_')) memory.privateBytes += Number(kB) * 1024;
    }
  }
  return memory;
}
