/** Processes inside of control groups, for the contract of their drivers. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { setTimeout as delay } from 'node:timers/promises';
import type { Cgroup } from '../../host/cgroup/cgroup.ts';
import { HatchError } from '../../host/base/errors.ts';

/** Starts a shell that enters the group before it runs the script; resolves once it is inside. */
export async function runInside(group: Cgroup, script: string): Promise<ChildProcess> {
  const enter = group.joinFds.map((_fd, index) => `echo 0 >&${index + 3}`).join(' && ');
  const close = group.joinFds.map((_fd, index) => `${index + 3}>&-`).join(' ');
  const child = spawn('sh', ['-c', `${enter} || exit\nexec ${close}\necho in\n${script}`], {
    stdio: ['ignore', 'pipe', 'inherit', ...group.joinFds],
    env: { ...process.env, NODE: process.execPath },
  });
  assert.equal(await nextOutputOf(child), 'in\n');
  return child;
}

export async function signalOf(child: ChildProcess): Promise<string | null> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  return child.signalCode;
}

export async function nextOutputOf(child: ChildProcess): Promise<string> {
  assert.ok(child.stdout);
  const [data]: unknown[] = await once(child.stdout, 'data');
  return String(data);
}

export async function outputOf(child: ChildProcess): Promise<string> {
  let text = '';
  child.stdout?.on('data', (data) => (text += String(data)));
  await once(child, 'close');
  return text;
}

export function memoryHog(sizeMib: number): string {
  const allocate = `for(let i=0;i<${sizeMib};i++)a.push(Buffer.alloc(1<<20,1))`;
  return `globalThis.a=[];${allocate};console.log("done")`;
}

export const forkUntilError =
  'const c=require("child_process");const all=[];(function f(){const p=c.spawn("sleep",["60"]);' +
  'p.on("error",e=>{console.log(e.code);all.forEach(p=>p.kill());process.exit()});' +
  'p.on("spawn",()=>{all.push(p);f()})})()';

/** User and system time in clock ticks; the name in parentheses holds no space here. */
export function cpuTicksOf(child: ChildProcess): number {
  const fields = readFileSync(`/proc/${child.pid}/stat`, 'latin1').split(' ');
  return Number(fields[13]) + Number(fields[14]);
}

export async function cpuShareOf(group: Cgroup, durationMs: number): Promise<number> {
  const [startUs, start] = [group.usage().cpuUsageUs, performance.now()];
  await delay(durationMs);
  return (group.usage().cpuUsageUs - startUs) / 1000 / (performance.now() - start);
}

export async function waitFor(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 5000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `never came true: ${condition.toString()}`);
    await delay(5);
  }
}

export function hatchError(message: RegExp) {
  return (error: unknown) => error instanceof HatchError && message.test(error.message);
}
