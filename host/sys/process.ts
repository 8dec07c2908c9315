/** What a process is and may do: identity, capabilities, limits, signals, descriptors. */
import { writeSync } from 'node:fs';
import {
  allocate,
  errnoOf,
  numberedSyscall,
  setupMark,
  setupSyscall,
  syscall,
  syscallError,
  trySyscall,
} from './libc.ts';
import { callNumber } from './numbers.ts';

// <linux/prctl.h>, <linux/securebits.h>, <linux/capability.h>, <linux/keyctl.h>
const PR_SET_DUMPABLE = 4;
const PR_GET_SECCOMP = 21;
const PR_CAPBSET_READ = 23;
const PR_CAPBSET_DROP = 24;
const PR_GET_SECUREBITS = 27;
const PR_SET_SECUREBITS = 28;
const PR_SET_CHILD_SUBREAPER = 36;
const PR_SET_NO_NEW_PRIVS = 38;
const PR_GET_NO_NEW_PRIVS = 39;
const PR_CAP_AMBIENT = 47;
const PR_CAP_AMBIENT_CLEAR_ALL = 4;
// NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, each with its lock, and KEEP_CAPS locked off.
const SECUREBITS = 0b11101111;
const SECBIT_NO_SETUID_FIXUP = 0b100;
/** As an id: leave it as it is. */
const unchanged = 0xffff_ffff;
const LINUX_CAPABILITY_VERSION_3 = 0x20080522;
const KEYCTL_JOIN_SESSION_KEYRING = 1;
/** <linux/close_range.h> */
const CLOSE_RANGE_CLOEXEC = 4;
const SIG_BLOCK = 0;
const SIG_SETMASK = 2;
const SFD_CLOEXEC = 0o2000000;
const SFD_NONBLOCK = 0o4000;
const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;
/** eventfd(2) adds the number that is written. */
const bellStroke = new BigUint64Array([1n]);
const SIG_DFL = 0n;
const SIG_IGN = 1n;

/** <bits/resource.h> on x86-64 and arm64. */
export const resource = {
  fileSize: 1,
  core: 4,
  processes: 6,
  openFiles: 7,
  lockedMemory: 8,
  pendingSignals: 11,
  messageQueueBytes: 12,
} as const;

/** struct rlimit */
export const resourceLimitLayout = { size: 16, soft: 0, hard: 8 } as const;
/** struct pollfd */
export const pollFdLayout = { size: 8, fd: 0, events: 4, revents: 6 } as const;

const prctlParameters =
  'int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d';
const prctlCall = setupSyscall<[number, number, number, number, number]>(
  { name: 'prctl', number: callNumber.prctl, parameters: prctlParameters },
  (option, a) => `option ${option} argument ${a}`,
);
const trySetupPrctl = trySyscall<[number, number, number, number, number, number, bigint]>(
  `long syscall(long number, ${prctlParameters}, uint64_t mark)`,
);
const tryPrctl = trySyscall<[number, number, number, number, number]>(
  `int prctl(${prctlParameters})`,
);
const capsetCall = setupSyscall<[Uint8Array, Uint8Array]>({
  name: 'capset',
  number: callNumber.capset,
  parameters: 'const uint8_t *header, const uint8_t *data',
});
const capgetCall = numberedSyscall<[Uint8Array, Uint8Array]>({
  name: 'capget',
  number: callNumber.capget,
  parameters: 'const uint8_t *header, uint8_t *data',
});
const keyctlCall = setupSyscall<[number, null]>({
  name: 'keyctl',
  number: callNumber.keyctl,
  parameters: 'int operation, const char *name',
});
const setgroupsCall = setupSyscall<[number, null]>({
  name: 'setgroups',
  number: callNumber.setgroups,
  parameters: 'size_t size, const void *list',
});
const setresgidCall = syscall<[number, number, number]>(
  'int setresgid(unsigned int r, unsigned int e, unsigned int s)',
);
const setresuidCall = syscall<[number, number, number]>(
  'int setresuid(unsigned int r, unsigned int e, unsigned int s)',
);
/** libc's own changes all threads. */
const setresuidOfThread = numberedSyscall<[number, number, number]>({
  name: 'setresuid',
  number: callNumber.setresuid,
  parameters: 'unsigned int r, unsigned int e, unsigned int s',
});
const getrlimitCall = syscall<[number, Uint8Array]>(
  'int getrlimit(int resource, _Out_ uint8_t *limit)',
  (which) => `of resource ${which}`,
);
const setrlimitCall = syscall<[number, Uint8Array]>(
  'int setrlimit(int resource, const uint8_t *limit)',
  (which) => `of resource ${which}`,
);
const closeRangeCall = numberedSyscall<[number, number, number]>({
  name: 'close_range',
  number: callNumber.close_range,
  parameters: 'unsigned int first, unsigned int last, int flags',
});
const dup2Call = syscall<[number, number]>('int dup2(int from, int to)');
const dup3Call = syscall<[number, number, number]>('int dup3(int from, int to, int flags)');
const fcntlCall = syscall<[number, number, number]>(
  'int fcntl(int fd, int command, long argument)',
);
const fchdirCall = syscall<[number]>('int fchdir(int fd)');
const eventfdCall = syscall<[number, number]>('int eventfd(unsigned int count, int flags)');
const setsidCall = trySyscall<[]>('int setsid()');
const umaskCall = syscall<[number]>('int umask(int mask)');
const killCall = trySyscall<[number, number]>('int kill(int pid, int signal)');
const getpidCall = syscall<[]>('int getpid()');
const signalCall = trySyscall<[number, bigint]>('intptr_t signal(int number, uintptr_t handler)');
const sigprocmaskCall = syscall<[number, bigint, null]>(
  'int sigprocmask(int how, const void *set, void *old)',
);
const signalfdCall = syscall<[number, bigint, number]>(
  'int signalfd(int fd, const void *mask, int flags)',
);
const pollCall = trySyscall<[bigint, number, number]>(
  'int poll(void *fds, unsigned long count, int timeout)',
);

// glibc's sigset_t has 128 bytes; the kernel reads the first 8.
const fullSignalSet = allocate(128);
fullSignalSet.bytes.fill(0xff);
const emptySignalSet = allocate(128);

/** The calling process's id as the kernel says it now: `process.pid` is stale after a fork. */
export function currentPid(): number {
  return getpidCall();
}

/**
 * Becomes this user and group (real, effective, saved) without supplementary groups and without any
 * capability in any set, nor the means to gain one. Cannot be undone.
 */
export function becomeUnprivileged(options: { uid: number; gid: number }): void {
  setgroupsCall(0, null);
  setresgidCall(options.gid, options.gid, options.gid);
  // With NO_SETUID_FIXUP the capabilities outlive the change of user, so they go explicitly below.
  prctlCall(PR_SET_SECUREBITS, SECUREBITS, 0, 0, 0);
  // The bounding set must go while CAP_SETPCAP is still held; EINVAL is one past the last.
  let dropped = 0;
  for (let capability = 0; dropped === 0; capability++)
    dropped = trySetupPrctl(callNumber.prctl, PR_CAPBSET_DROP, capability, 0, 0, 0, setupMark);
  if (dropped !== -errnoOf('EINVAL')) throw syscallError('prctl', dropped, 'PR_CAPBSET_DROP');
  prctlCall(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  setresuidCall(options.uid, options.uid, options.uid);
  const header = Buffer.alloc(8);
  header.writeUInt32LE(LINUX_CAPABILITY_VERSION_3, 0);
  capsetCall(header, Buffer.alloc(24));
}

/**
 * What `act` makes belongs to this user; it keeps every capability. Of this thread alone, so `act`
 * must not wait for anything. For root, and uses nothing that root cannot get back.
 */
export function withEffectiveUser<T>(uid: number, act: () => T): T {
  const own = process.geteuid?.() ?? 0;
  const bits = prctlCall(PR_GET_SECUREBITS, 0, 0, 0, 0);
  prctlCall(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP, 0, 0, 0);
  try {
    setresuidOfThread(unchanged, uid, unchanged);
    try {
      return act();
    } finally {
      setresuidOfThread(unchanged, own, unchanged);
    }
  } finally {
    prctlCall(PR_SET_SECUREBITS, bits, 0, 0, 0);
  }
}

/**
 * Asks the kernel what this process may still do. The bounding set is read up to its first member:
 * 0 capabilities means that none is left.
 */
export function remainingPrivileges(): {
  capabilities: number;
  noNewPrivileges: boolean;
  seccompFilter: boolean;
} {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(LINUX_CAPABILITY_VERSION_3, 0);
  const sets = Buffer.alloc(24);
  capgetCall(header, sets);
  let capabilities = sets.every((byte) => byte === 0) ? 0 : 1;
  for (let capability = 0, held = 0; held >= 0; capability++) {
    held = tryPrctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    if (held === 1) capabilities++;
  }
  return {
    capabilities,
    noNewPrivileges: tryPrctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) === 1,
    seccompFilter: tryPrctl(PR_GET_SECCOMP, 0, 0, 0, 0) === 2,
  };
}

export function setNoNewPrivileges(): void {
  prctlCall(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/** Off: no core dumps, and /proc/PID of this process is closed to others of the same user. */
export function setDumpable(dumpable: boolean): void {
  prctlCall(PR_SET_DUMPABLE, dumpable ? 1 : 0, 0, 0, 0);
}

/** From now on descendants that lose their parent become children of this process. */
export function adoptOrphans(): void {
  prctlCall(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
}

/** A session keyring of its own, or the parent's keys would be shared by all its children. */
export function joinNewSessionKeyring(): void {
  keyctlCall(KEYCTL_JOIN_SESSION_KEYRING, null);
}

/** Sets soft and hard limit alike. `which` is a value of `resource`. */
export function setResourceLimit(which: number, value: number): void {
  const limit = Buffer.alloc(resourceLimitLayout.size);
  limit.writeBigUInt64LE(BigInt(value), resourceLimitLayout.soft);
  limit.writeBigUInt64LE(BigInt(value), resourceLimitLayout.hard);
  setrlimitCall(which, limit);
}

/** Sets both limits to `value`, or to the hard limit where that is lower: raising wants a right. */
export function lowerResourceLimit(which: number, value: number): void {
  const limit = Buffer.alloc(resourceLimitLayout.size);
  getrlimitCall(which, limit);
  const most = limit.readBigUInt64LE(resourceLimitLayout.hard);
  setResourceLimit(which, most < BigInt(value) ? Number(most) : value);
}

/**
 * Closes every descriptor from 3 up but those to keep: without an exec, close-on-exec does nothing.
 */
export function closeAllBut(keep: readonly number[]): void {
  let first = 3;
  for (const fd of [...keep].toSorted((a, b) => a - b)) {
    if (fd > first) closeRangeCall(first, fd - 1, 0);
    if (fd >= first) first = fd + 1;
  }
  closeRangeCall(first, 0xffffffff, 0);
}

/** What is open now from descriptor 3 up is handed to no program that this process executes. */
export function closeAllOnExec(): void {
  closeRangeCall(3, 0xffffffff, CLOSE_RANGE_CLOEXEC);
}

/** Makes `to` a copy of `from`; the copy stays open across exec. */
export function duplicateTo(from: number, to: number): void {
  dup2Call(from, to);
}

/**
 * Wakes whoever waits for it. A message on a socket does so too, but tells the scheduler that its
 * sender is about to wait for the answer: the receiver then gets the sender's processor, and none
 * before the sender is done, while others are idle.
 */
export function makeBell(): number {
  return eventfdCall(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

export function ringBell(bell: number): void {
  writeSync(bell, bellStroke);
}

/**
 * Puts one new eventfd of our own in place of each, close-on-exec: writing to them then concerns
 * nobody else.
 */
export function replaceWithEventFd(fds: readonly number[]): void {
  const own = eventfdCall(0, EFD_CLOEXEC | EFD_NONBLOCK);
  for (const fd of fds) dup3Call(own, fd, EFD_CLOEXEC);
  closeRangeCall(own, own, 0);
}

/** A copy of a descriptor at the lowest free number from `least` up, close-on-exec. */
export function duplicateAbove(fd: number, least: number): number {
  const F_DUPFD_CLOEXEC = 1030;
  return fcntlCall(fd, F_DUPFD_CLOEXEC, least);
}

/** Lets a descriptor live on when this process executes another program. */
export function keepAcrossExec(fd: number): void {
  const F_SETFD = 2;
  fcntlCall(fd, F_SETFD, 0);
}

/** Makes the directory behind a descriptor the current one. */
export function changeDirectoryTo(directoryFd: number): void {
  fchdirCall(directoryFd);
}

/** Leaves the controlling terminal and the process group. Fails silently for a group's leader. */
export function becomeSessionLeader(): void {
  setsidCall();
}

export function setUmask(mask: number): void {
  umaskCall(mask);
}

/** Sends a signal by number; a process that is gone is no error. Returns false then. */
export function sendSignal(pid: number, signal: number): boolean {
  return killCall(pid, signal) === 0;
}

export function blockAllSignals(): void {
  sigprocmaskCall(SIG_BLOCK, fullSignalSet.address, null);
}

export function unblockAllSignals(): void {
  sigprocmaskCall(SIG_SETMASK, emptySignalSet.address, null);
}

/** Back to the default action: a forked child inherits what its parent ignores. */
export function restoreSignal(signal: number): void {
  signalCall(signal, SIG_DFL);
}

/** Ended children vanish by themselves: for a parent that never waits for them. */
export function ignoreSignal(signal: number): void {
  signalCall(signal, SIG_IGN);
}

/**
 * A descriptor to read blocked signals from (signalfd(2)), all that can be caught; non-blocking.
 */
export function openSignalFd(): number {
  return signalfdCall(-1, fullSignalSet.address, SFD_CLOEXEC | SFD_NONBLOCK);
}

/** Size of struct signalfd_siginfo; `ssi_signo` is its first 32 bits. */
export const signalInfoBytes = 128;

const pollFdsMax = 4096;
const POLLIN = 1;
const pollSet = allocate(pollFdLayout.size * pollFdsMax);

/**
 * Blocks the whole process until one of the descriptors can be read or has hung up, and returns
 * those, or none after `timeoutMs` (-1: never).
 */
export function waitReadable(fds: readonly number[], timeoutMs: number): number[] {
  fds.forEach((fd, index) => watch(index, fd, POLLIN));
  if (pollCall(pollSet.address, fds.length, timeoutMs) <= 0) return [];
  const { size, revents } = pollFdLayout;
  return fds.filter((_fd, index) => pollSet.bytes.readInt16LE(index * size + revents) !== 0);
}

/**
 * Blocks until the bell is rung, or the socket has hung up; what arrives on the socket does not
 * wake this process.
 */
export function waitForBell(bell: number, socket: number): void {
  watch(0, bell, POLLIN);
  watch(1, socket, 0);
  pollCall(pollSet.address, 2, -1);
}

function watch(index: number, fd: number, wanted: number): void {
  const { size, fd: fdOffset, events, revents } = pollFdLayout;
  pollSet.bytes.writeInt32LE(fd, index * size + fdOffset);
  pollSet.bytes.writeInt16LE(wanted, index * size + events);
  pollSet.bytes.writeInt16LE(0, index * size + revents);
}
