import { spawn } from 'node:child_process';
import { readFile, readdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Handler } from '../types.ts';

export interface Wish {
  /** Orphans to leave behind; 8 by default. */
  count?: number;
  /** How long each of them lives; 100 by default. */
  lifetimeMs?: number;
  /** How long to wait before looking at /proc; 0 by default. */
  waitMs?: number;
}

export interface Sighting {
  /** Orphans started by this call. */
  started: number;
  /** All processes in /proc: PID 1, this one, orphans alive, and zombies. */
  processes: number;
  zombies: number;
  /** Living children of PID 1 other than this process: orphans of this and earlier calls. */
  adopted: number;
}

const countMax = 100;

/**
 * Starts processes whose parents exit at once, so that PID 1 of the container inherits them, and
 * tells what /proc shows. When the orphans have ended and PID 1 reaps, no zombie is left.
 */
export const handler: Handler<Wish | undefined, Sighting> = async (event) => {
  const { count = 8, lifetimeMs = 100, waitMs = 0 } = event ?? {};
  if (!Number.isInteger(count) || count < 0 || count > countMax) {
    throw new RangeError(`Give a count of 0 to ${countMax}`);
  }
  await Promise.all(Array.from({ length: count }, () => leaveOrphan(lifetimeMs)));
  await sleep(waitMs);
  return { started: count, ...(await lookAtProc()) };
};

/** The shell puts a sleep into the background and exits: the sleep loses its parent. */
function leaveOrphan(lifetimeMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const seconds = (lifetimeMs / 1000).toFixed(3);
    const shell = spawn('/bin/sh', ['-c', `sleep ${seconds} &`], { stdio: 'ignore' });
    shell.once('error', reject);
    shell.once('exit', (code) => {
      if (code === 0) resolve();
      else reject(new Error(`Cannot start an orphan: the shell ended with ${code}`));
    });
  });
}

async function lookAtProc(): Promise<Omit<Sighting, 'started'>> {
  const pids = (await readdir('/proc')).filter((name) => /^[0-9]+$/.test(name));
  const found = (await Promise.all(pids.map(statusOf))).filter((status) => status !== undefined);
  return {
    processes: found.length,
    zombies: found.filter(({ state }) => state === 'Z').length,
    adopted: found.filter(
      ({ pid, parent, state }) => parent === 1 && state !== 'Z' && pid !== process.pid,
    ).length,
  };
}

/** `pid (name) state parent ...`; undefined when the process ended in between. */
async function statusOf(pid: string) {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  const match = text === undefined ? null : /\(.*\) (\S) (\d+)/s.exec(text);
  if (match === null) return undefined;
  const [, state = '', parent = ''] = match;
  return { pid: Number(pid), state, parent: Number(parent) };
}
