/** Proves, before anything relies on it, that this Node.js can be forked on this kernel. */
import { spawn } from 'node:child_process';
import { closeSync, readSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { nowNs } from '../host/base/clock.ts';
import { adoptEventLoop, exitNow, fork, reapChild } from '../host/sys/fork.ts';
import { sendSignal, unblockAllSignals, waitReadable } from '../host/sys/process.ts';
import { pipe } from '../host/sys/socket.ts';
import { describeFds, findSignalLock } from './inherited-fds.ts';

const timeoutMs = 5000;
const SIGKILL = 9;

/**
 * The child's timers, thread pool and child processes must work. Returns the descriptors of libuv's
 * signal lock in a child; undefined in the test child itself, which unwinds into its event loop.
 * Throws when the child fails or hangs. Call it with all signals blocked.
 */
export function testForking(): number[] | undefined {
  const parentFds = describeFds();
  const [reportRead, reportWrite] = pipe();
  const pid = fork();
  if (pid === 0) {
    // The report's own pipe is new too, and known by its numbers.
    const lock = findSignalLock(parentFds).filter((fd) => fd !== reportRead && fd !== reportWrite);
    writeSync(reportWrite, JSON.stringify(lock));
    adoptEventLoop();
    unblockAllSignals();
    void exercise();
    return undefined;
  }
  closeSync(reportWrite);
  try {
    waitForTestChild(pid);
    const report = Buffer.alloc(256);
    return JSON.parse(report.toString('utf8', 0, readSync(reportRead, report))) as number[];
  } finally {
    closeSync(reportRead);
  }
}

async function exercise(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 1));
  await readFile('/proc/self/stat');
  const child = spawn('/bin/busybox', ['true'], { stdio: 'ignore' });
  child.once('error', () => exitNow(3));
  child.once('exit', (code) => exitNow(code ?? 4));
}

function waitForTestChild(pid: number): void {
  const deadlineNs = nowNs() + timeoutMs * 1e6;
  for (;;) {
    const ended = reapChild(pid);
    if (ended?.exitCode === 0) return;
    if (ended !== undefined || nowNs() > deadlineNs) {
      sendSignal(pid, SIGKILL);
      const how = ended === undefined ? 'hangs' : `ended with ${ended.exitCode}`;
      throw new Error(`Cannot fork Node.js ${process.version}: the test child ${how}`);
    }
    waitReadable([], 1);
  }
}
