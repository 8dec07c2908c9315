/** What instances of an engine use of the machine, read from the kernel's own accounts. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Engine } from '../../host/engine.ts';
import type { Instance } from '../../host/pool/instance.ts';
import type { PoolFunction } from '../../host/pool/pool-function.ts';
import { cpuUsageUs, memoryInUse, processesOf } from '../support/containers.ts';

export interface OpenedEngine {
  engine: Engine;
  cgroupParent: string;
}

/** In MB, both processes of an instance together. */
export interface InstanceMemory {
  privateMB: number;
  sharedMB: number;
  pageTablesMB: number;
  /** To its control group. */
  chargedMB: number;
}

const acquireTimeoutMs = 30_000;
const settlingMs = 500;

/** Cores that each instance used, on one processor that all of them want for themselves. */
export async function contend(
  opened: OpenedEngine,
  wanted: readonly PoolFunction[],
  measuredMs: number,
): Promise<number[]> {
  const instances = await Promise.all(wanted.map((fn) => start(opened.engine, fn)));
  for (const { hostPid } of instances.flatMap(({ id }) => processesOf(opened, id)))
    execFileSync('taskset', ['--all-tasks', '--cpu-list', '--pid', '0', String(hostPid)]);
  const forMs = measuredMs + 2 * settlingMs;
  const spins = instances.map((instance, at) =>
    instance.call({
      requestId: `spin-${at}`,
      subject: '',
      attempt: 1,
      timeoutMs: acquireTimeoutMs,
      payload: Buffer.from(JSON.stringify({ forMs })),
    }),
  );
  await sleep(settlingMs);
  const usedUs = () => instances.map(({ id }) => cpuUsageUs(opened, id));
  const [before, began] = [usedUs(), performance.now()];
  await sleep(measuredMs);
  const [after, tookMs] = [usedUs(), performance.now() - began];
  await Promise.all(spins);
  await Promise.all(instances.map(({ sandbox }) => sandbox.destroy()));
  return after.map((us, at) => (us - (before[at] ?? 0)) / 1000 / tookMs);
}

/** Starts them, leaves them idle and looks; they stay. `kernelMB` is of one instance. */
export async function memoryOf(
  opened: OpenedEngine,
  fn: PoolFunction,
  { count, idleMs }: { count: number; idleMs: number },
): Promise<{ instances: InstanceMemory[]; kernelMB: number; budgetedBytes: number }> {
  const before = kernelMemoryMB();
  const instances: Instance[] = [];
  for (let number = 0; number < count; number++) instances.push(await start(opened.engine, fn));
  // V8 tidies up some seconds after the last work, and by that makes shared pages its own.
  await sleep(idleMs);
  const kernelMB = (kernelMemoryMB() - before) / count;
  return {
    instances: instances.map(({ id }) => memoryOfInstance(opened, id)),
    kernelMB,
    budgetedBytes: opened.engine.pool.memoryBytes,
  };
}

/** Page tables are told by process; what is left can hardly be given to anybody else. */
function kernelMemoryMB(): number {
  const fields = ['SUnreclaim', 'KernelStack', 'Percpu'];
  const kB = fields.reduce((sum, field) => sum + fieldKB('/proc/meminfo', field), 0);
  return kB / kBPerMB;
}

/** What could still be given to somebody. */
export function machineAvailableMB(): number {
  const kB = fieldKB('/proc/meminfo', 'MemAvailable');
  return kB === 0 ? freemem() / 1e6 : kB / kBPerMB;
}

/** Of a file with lines such as `Pss:  12 kB`; 0 without such a line. */
export function fieldKB(file: string, field: string): number {
  const text = readFileSync(file, 'utf8');
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0);
}

export const kBPerMB = 1e6 / 1024;

async function start(engine: Engine, fn: PoolFunction): Promise<Instance> {
  const { instance } = await engine.pool.acquire(fn, { timeoutMs: acquireTimeoutMs });
  return instance;
}

function memoryOfInstance(opened: OpenedEngine, id: string): InstanceMemory {
  const processes = processesOf(opened, id);
  const total = (name: 'smaps_rollup' | 'status', fields: string[]): number =>
    processes
      .flatMap(({ hostPid }) => fields.map((field) => fieldKB(`/proc/${hostPid}/${name}`, field)))
      .reduce((sum, kB) => sum + kB / kBPerMB, 0);
  return {
    privateMB: total('smaps_rollup', ['Private_Clean', 'Private_Dirty']),
    sharedMB: total('smaps_rollup', ['Shared_Clean', 'Shared_Dirty']),
    pageTablesMB: total('status', ['VmPTE']),
    chargedMB: memoryInUse(opened, id) / 1e6,
  };
}
