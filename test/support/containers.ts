/** How a test looks at the containers of a running host, and what it does to them, from outside. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync, type SpawnSyncReturns } from 'node:child_process';
import { mkdtempSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { ProbeRequest, RunResult } from '../functions/probe/handler.ts';
import type { StartPath } from '../../host/base/channels.ts';
import { detectCgroupLayout } from '../../host/cgroup/cgroup.ts';
import { fieldOf } from '../../host/cgroup/control-files.ts';
import type { CallOptions, TestHost } from './host.ts';

const cgroupRoot = '/sys/fs/cgroup';

/** Who knows where the groups of its instances are. */
type GroupParent = Pick<TestHost, 'cgroupParent'>;

/** The directory of an instance's control group, on v1 the one of the given controller. */
export function cgroupOf(host: GroupParent, instanceId: string, controller: string): string {
  const hierarchy = detectCgroupLayout() === 'v2' ? '.' : controller;
  return join(cgroupRoot, hierarchy, host.cgroupParent, instanceId);
}

/** CPU time that an instance has used since it started. */
export function cpuUsageUs(host: GroupParent, instanceId: string): number {
  const group = cgroupOf(host, instanceId, 'cpuacct');
  if (detectCgroupLayout() === 'v2')
    return fieldOf(readFileSync(join(group, 'cpu.stat'), 'utf8'), 'usage_usec');
  return Number(readFileSync(join(group, 'cpuacct.usage'), 'utf8')) / 1000;
}

/** Bytes charged to an instance; to all together with an empty id. */
export function memoryInUse(host: GroupParent, instanceId: string): number {
  const file = detectCgroupLayout() === 'v2' ? 'memory.current' : 'memory.usage_in_bytes';
  return Number(readFileSync(join(cgroupOf(host, instanceId, 'memory'), file), 'utf8'));
}

/** All processes of an instance by their ids outside and inside; PID 1 and the function first. */
export function processesOf(
  host: GroupParent,
  instanceId: string,
): { hostPid: number; nsPid: number }[] {
  const file = join(cgroupOf(host, instanceId, 'pids'), 'cgroup.procs');
  const hostPids = readFileSync(file, 'utf8').trim().split('\n').map(Number);
  return hostPids
    .flatMap((hostPid) => {
      const nsPid = innerPid(hostPid);
      return nsPid === undefined ? [] : [{ hostPid, nsPid }];
    })
    .toSorted((a, b) => a.nsPid - b.nsPid);
}

/** A running probe function with one instance. */
export interface Probe {
  name: string;
  instanceId: string;
  /** How its instance was started. */
  startPath: StartPath;
  /** Process ids outside. */
  initPid: number;
  functionPid: number;
  ask<T>(request: ProbeRequest, options?: CallOptions): Promise<T>;
  /**
   * Runs a function of the test inside: its text is sent, so it sees its argument and what Node.js
   * offers (`process.getBuiltinModule`), and nothing around it.
   */
  evaluate<T, A = undefined>(fn: (argument: A) => T | Promise<T>, argument?: A): Promise<T>;
  /** Runs /function/probe inside; fails the test when that does not end well. */
  run(...args: string[]): Promise<string>;
}

/** Deploys `test/functions/probe` under this name. */
export async function startProbe(
  host: TestHost,
  name: string,
  manifest: Record<string, unknown> = {},
): Promise<Probe> {
  const { startRecord } = await host.deploy('test/functions/probe', { ...manifest, name });
  const [init, fn] = processesOf(host, startRecord.instanceId);
  assert.ok(init?.nsPid === 1 && fn !== undefined, startRecord.instanceId);
  const ask = async <T>(request: ProbeRequest, options?: CallOptions) =>
    (await host.call(name, request, options)).json<T>();
  return {
    name,
    instanceId: startRecord.instanceId,
    startPath: startRecord.path,
    initPid: init.hostPid,
    functionPid: fn.hostPid,
    ask,
    evaluate: (fn, argument) => ask({ do: 'evaluate', source: String(fn), argument }),
    async run(...args) {
      const result = await ask<RunResult>({ do: 'run', command: ['/function/probe', ...args] });
      assert.equal(result.status, 0, JSON.stringify(result));
      return result.stdout.trim();
    },
  };
}

/** The probe's program for the host, in a directory of its own. */
export function buildProbe(): { program: string; directory: string; [Symbol.dispose](): void } {
  const directory = mkdtempSync(join(tmpdir(), 'hatch-probe-'));
  execFileSync(process.execPath, ['build.ts', directory], {
    cwd: resolve(import.meta.dirname, '../functions/probe'),
  });
  return {
    program: join(directory, 'probe'),
    directory,
    [Symbol.dispose]: () => rmSync(directory, { recursive: true }),
  };
}

/** Runs a command as nsenter(1) does, in namespaces of a process: `['--mount', '--user']`. */
export function enter(
  pid: number,
  namespaces: string[],
  command: string[],
  options: { input?: string } = {},
): SpawnSyncReturns<string> {
  const args = ['--target', String(pid), ...namespaces, '--', ...command];
  return spawnSync('nsenter', args, { encoding: 'utf8', ...options });
}

/** As `enter`, and fails the test when the command does. */
export function enterOk(pid: number, namespaces: string[], command: string[]): string {
  const result = enter(pid, namespaces, command);
  assert.equal(result.status, 0, `${command.join(' ')}: ${result.stderr}`);
  return result.stdout.trim();
}

/**
 * Runs the probe's program in a container's IPC namespace, with the host's rights: where Landlock
 * is in force nobody inside can open a POSIX queue, for a queue is a file on a mount of its own.
 */
export function runInIpcOf(pid: number, program: string): (...args: string[]) => string {
  return (...args) => enter(pid, ['--ipc'], [program, ...args]).stdout.trim();
}

/** Kind to `kind:[inode]`. */
export function namespacesOf(pid: number | 'self'): Record<string, string> {
  const kinds = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts'];
  return Object.fromEntries(kinds.map((kind) => [kind, readlinkSync(`/proc/${pid}/ns/${kind}`)]));
}

/** The host's uid of container root, by the instance's own map. */
export function uidBaseOf(pid: number): number {
  const map = readFileSync(`/proc/${pid}/uid_map`, 'utf8').trim().split(/\s+/).map(Number);
  assert.deepEqual([map[0], map[2], map.length], [0, 65_536, 3]);
  return map[1] ?? 0;
}

/** The higher, the sooner it goes when the machine is out of memory. */
export function oomScoreOf(pid: number | 'self'): number {
  return Number(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8'));
}

export function isAlive(pid: number): boolean {
  return statSync(`/proc/${pid}`, { throwIfNoEntry: false }) !== undefined;
}

/** Undefined when the process has ended meanwhile. */
function innerPid(hostPid: number): number | undefined {
  try {
    const status = readFileSync(`/proc/${hostPid}/status`, 'latin1');
    const pids = /^NSpid:\t(.*)$/m.exec(status)?.[1]?.split('\t') ?? [];
    return Number(pids.at(-1));
  } catch {
    return undefined;
  }
}
