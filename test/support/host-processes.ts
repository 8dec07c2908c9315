/** The processes of a running host, as the kernel knows them: for tests that end some of them. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TestHost } from './host.ts';
import { slowness } from './slowness.ts';

export interface RunningProcess {
  pid: number;
  parent: number;
  processGroup: number;
  command: string;
}

/** All descendants of a process that are no zombies. */
export function descendantsOf(pid: number): RunningProcess[] {
  const all = runningProcesses();
  const found: RunningProcess[] = [];
  let parents = new Set([pid]);
  while (parents.size > 0) {
    const children = all.filter(({ parent }) => parents.has(parent));
    found.push(...children);
    parents = new Set(children.map((child) => child.pid));
  }
  return found;
}

/** Of a host with one tenant; undefined while it is being replaced. */
export function zygotePid(host: TestHost): number | undefined {
  return zygotePids(host)[0];
}

/** Of all tenants. */
export function zygotePids(host: TestHost): number[] {
  return childrenOf(host, /^hatch-zygote/);
}

export function parentOf(pid: number): number | undefined {
  return runningProcesses().find((one) => one.pid === pid)?.parent;
}

export function natsServerPid(host: TestHost): number {
  return childrenOf(host, /nats-server/)[0] ?? assert.fail('the host has no nats-server');
}

export function isRunning(pid: number): boolean {
  return runningProcesses().some((one) => one.pid === pid);
}

export function residentBytes(pid: number): number {
  const [, kB] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kB) * 1024;
}

/** Polls until it is true; fails the test after `timeoutMs`. */
export async function waitFor(
  what: string,
  isTrue: () => boolean | Promise<boolean>,
  { timeoutMs = 10_000 * slowness }: { timeoutMs?: number } = {},
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await isTrue())) {
    assert.ok(performance.now() < deadline, `Waited ${timeoutMs} ms in vain: ${what}`);
    await sleep(20);
  }
}

function childrenOf(host: TestHost, command: RegExp): number[] {
  const children = runningProcesses().filter(({ parent }) => parent === host.pid);
  return children.filter((one) => command.test(one.command)).map(({ pid }) => pid);
}

function runningProcesses(): RunningProcess[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
        const command = readFileSync(`/proc/${name}/cmdline`, 'latin1').replaceAll('\0', ' ');
        const [state, parent, processGroup] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        if (state === 'Z') return [];
        const numbers = { parent: Number(parent), processGroup: Number(processGroup) };
        return [{ pid: Number(name), ...numbers, command }];
      } catch {
        // It ended while we looked.
        return [];
      }
    });
}
