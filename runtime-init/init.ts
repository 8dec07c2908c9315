/**
 * PID 1: passes signals on to the function process, reaps every orphan, ends with the function, and
 * takes the container down when the host goes away. It blocks in poll(2), outside any event loop,
 * so an idle container costs no timer and no wake-up.
 */
import { closeSync, readSync, writeSync } from 'node:fs';
import type { InitCommand, InitMessage } from '../host/protocol/zygote.ts';
import { exitNow, openPidFd, reapChild } from '../host/sys/fork.ts';
import { isErrno } from '../host/sys/errors.ts';
import { joinNamespace, namespaceFlag } from '../host/sys/namespace.ts';
import { openSignalFd, sendSignal, signalInfoBytes, waitReadable } from '../host/sys/process.ts';
import { joinCgroup, ownNamespaces } from './container.ts';
import { fdFor, tellOther, type BlankProcess, type ContainerStart } from './container-start.ts';
import { dropPrivileges } from './privileges.ts';

const SIGKILL = 9;
const SIGTERM = 15;
const SIGCHLD = 17;
/** What the function left running gets this long to end by itself. */
const graceMs = 100;
/** The function process is PID 1's first child. */
const functionPid = 2;

/** PID 1 before it has a container. */
export interface BlankInit extends BlankProcess {
  /** From `openNamespaceLimits`. */
  namespaceLimits: number;
}

/** For when the function's process has made its namespaces. Never returns. */
export function runInit(blank: BlankInit, start: ContainerStart): never {
  const { socket, link, seccomp, label, namespaceLimits } = blank;
  joinCgroup(start);
  const functionFd = openPidFd(functionPid);
  joinNamespace(functionFd, ownNamespaces | namespaceFlag.network);
  closeSync(functionFd);
  const signals = openSignalFd();
  dropPrivileges({
    userNamespace: fdFor(start.fds, 'userNamespace'),
    identity: start.identity,
    label,
    seccomp: seccomp.node,
    namespaceLimits,
  });
  tellOther(link);
  closeSync(link);
  supervise({ control: socket, signals, functionPid });
}

export interface Supervision {
  /** The socket to the host: its end is the container's. */
  control: number;
  /** From `openSignalFd`, with all signals blocked in every thread. */
  signals: number;
  functionPid: number;
  /** For a PID 1 with several threads, of which any may take a signal away from `signals`. */
  unreliable?: {
    /** A pidfd of the function process. */
    functionFd: number;
    reapEveryMs: number;
  };
}

/** What PID 1 does all its life. */
export function supervise({ control, signals, functionPid, unreliable }: Supervision): never {
  tell(control, { type: 'running' });
  const watched = [signals, control];
  if (unreliable !== undefined) watched.push(unreliable.functionFd);
  for (;;) {
    const readable = waitReadable(watched, unreliable?.reapEveryMs ?? -1);
    if (readable.includes(signals))
      for (const signal of takeSignals(signals))
        if (signal !== SIGCHLD) sendSignal(functionPid, signal);
    reapAll(control, functionPid);
    if (readable.includes(control)) onControl(control, functionPid);
  }
}

/** A signal coalesces: one SIGCHLD may stand for any number of ended children. */
function reapAll(control: number, functionPid: number): void {
  for (let ended = reapChild(); ended !== undefined; ended = reapChild()) {
    if (ended.pid !== functionPid) continue;
    const { exitCode, signal } = ended;
    tell(control, { type: 'exited', exitCode, ...(signal === undefined ? {} : { signal }) });
    endRest();
    exitNow(exitCode);
  }
}

function endRest(): void {
  if (!sendSignal(-1, SIGTERM)) return;
  for (let waitedMs = 0; waitedMs < graceMs; waitedMs += 5) {
    while (reapChild() !== undefined);
    // Signal 0 asks whether anyone is left.
    if (!sendSignal(-1, 0)) return;
    waitReadable([], 5);
  }
  sendSignal(-1, SIGKILL);
}

let commandText = '';

function onControl(control: number, functionPid: number): void {
  const chunk = Buffer.alloc(4096);
  let size = 0;
  try {
    size = readSync(control, chunk);
  } catch (error) {
    if (isErrno(error, 'EAGAIN', 'EINTR')) return;
  }
  // The host closed its end, or died: nothing may run on that nobody can stop.
  if (size === 0) {
    sendSignal(-1, SIGKILL);
    exitNow(128 + SIGKILL);
  }
  commandText += chunk.toString('utf8', 0, size);
  const lines = commandText.split('\n');
  commandText = lines.pop() ?? '';
  for (const line of lines) sendSignal(functionPid, (JSON.parse(line) as InitCommand).signal);
}

function takeSignals(fd: number): number[] {
  const buffer = Buffer.alloc(signalInfoBytes * 16);
  let size = 0;
  try {
    size = readSync(fd, buffer);
  } catch (error) {
    // Another thread was quicker.
    if (!isErrno(error, 'EAGAIN', 'EINTR')) throw error;
  }
  const signals: number[] = [];
  for (let offset = 0; offset < size; offset += signalInfoBytes)
    signals.push(buffer.readUInt32LE(offset));
  return signals;
}

function tell(control: number, message: InitMessage): void {
  try {
    writeSync(control, `${JSON.stringify(message)}\n`);
  } catch (error) {
    // A host that is gone needs no message; the next poll ends the container.
    if (!isErrno(error, 'EPIPE', 'ECONNRESET')) throw error;
  }
}
