/** Processes that may have stopped themselves (stop-at-steps.ts), and may end meanwhile. */
import { readFileSync, readlinkSync } from 'node:fs';
import { stepInTitle } from './step-title.ts';

export interface Stopped {
  pid: number;
  step: string;
}

export function stoppedProcess(pid: number): Stopped | 'runs' | 'gone' {
  const stat = attempt(() => readFileSync(`/proc/${pid}/stat`, 'latin1'));
  if (stat === undefined) return 'gone';
  const state = stat.at(stat.lastIndexOf(')') + 2);
  if (state === 'Z') return 'gone';
  if (state !== 'T') return 'runs';
  const command = attempt(() => readFileSync(`/proc/${pid}/cmdline`, 'latin1')) ?? '';
  const step = stepInTitle(command.replaceAll('\0', ' '));
  return step === undefined ? 'runs' : { pid, step };
}

/** Children that it has not waited for. */
export function endedChildrenOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1');
  const pids = children.split(' ').filter(Boolean).map(Number);
  return pids.filter((child) => stoppedProcess(child) === 'gone');
}

export function resume(pid: number): void {
  attempt(() => process.kill(pid, 'SIGCONT'));
}

export function pidNamespaceOf(pid: number): string | undefined {
  return attempt(() => readlinkSync(`/proc/${pid}/ns/pid`));
}

/** The lines of /proc/PID/cgroup. */
export function groupsOf(pid: number): string {
  return attempt(() => readFileSync(`/proc/${pid}/cgroup`, 'latin1')) ?? '';
}

/** As the process itself sees it. */
export function innerPid(pid: number): number | undefined {
  const status = attempt(() => readFileSync(`/proc/${pid}/status`, 'latin1')) ?? '';
  return Number(/^NSpid:\t(.*)$/m.exec(status)?.[1]?.split('\t').at(-1));
}

function attempt<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch {
    return undefined;
  }
}
