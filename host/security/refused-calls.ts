/**
 * Who hears of the calls that the base filter refuses: the kernel holds each of them until it is
 * answered here, with EPERM and nothing else. It costs only who is refused.
 */
import { closeSync, readFileSync } from 'node:fs';
import { watchReadable, type Watch } from '../sys/libc.ts';
import { nextWaitingCall, refuseWaitingCall, type WaitingCall } from '../sys/seccomp-listener.ts';
import { callNames } from './security.ts';

export interface RefusedCall {
  /** Such as `ptrace`, or `call 500`. */
  name: string;
  /** The thread that made it, as this process sees it. */
  pid: number;
  /** The last names of the control groups it is in: one is its container's id. */
  groups: string[];
}

export class RefusedCalls {
  /** Says how many ms the answer is to wait: so who floods us waits, and nobody else. */
  onRefused: (call: RefusedCall) => number = () => 0;
  readonly #listeners = new Map<number, Watch>();
  readonly #late = new Set<NodeJS.Timeout>();
  readonly #names = callNames();

  /** The descriptor is ours now, and is closed when no process is left under its filter. */
  listen(listenerFd: number): void {
    this.#listeners.set(
      listenerFd,
      watchReadable(listenerFd, () => this.#answerAll(listenerFd)),
    );
  }

  /** Calls that are refused later fail with ENOSYS. */
  close(): void {
    for (const timer of this.#late) clearTimeout(timer);
    for (const listenerFd of this.#listeners.keys()) this.#stop(listenerFd);
  }

  #stop(listenerFd: number): void {
    this.#listeners.get(listenerFd)?.close();
    this.#listeners.delete(listenerFd);
    closeSync(listenerFd);
  }

  #answerAll(listenerFd: number): void {
    while (this.#listeners.has(listenerFd)) {
      const call = nextWaitingCall(listenerFd);
      if (call === 'over') this.#stop(listenerFd);
      if (typeof call === 'string') return;
      this.#answer(listenerFd, call);
    }
  }

  #answer(listenerFd: number, call: WaitingCall): void {
    const name = this.#names.get(call.number) ?? `call ${call.number}`;
    // It cannot go away while it waits, unless it is killed: then its number leads nowhere.
    const waitMs = this.onRefused({ name, pid: call.pid, groups: groupsOf(call.pid) });
    if (waitMs === 0) {
      refuseWaitingCall(listenerFd, call, 'EPERM');
      return;
    }
    const timer = setTimeout(() => {
      this.#late.delete(timer);
      // It may have been killed, and the last under the filter.
      if (this.#listeners.has(listenerFd)) refuseWaitingCall(listenerFd, call, 'EPERM');
    }, waitMs);
    this.#late.add(timer);
  }
}

function groupsOf(pid: number): string[] {
  try {
    const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').trim().split('\n');
    return [...new Set(lines.map((line) => line.slice(line.lastIndexOf('/') + 1)))];
  } catch {
    return [];
  }
}
