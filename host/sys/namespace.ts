/** Namespaces of the calling thread (namespaces(7)): call these from single-threaded processes. */
import { closeSync, openSync } from 'node:fs';
import { setupMark, setupSyscall, syscall, trySyscall } from './libc.ts';
import { callNumber } from './numbers.ts';

// <linux/sched.h>
export const namespaceFlag = {
  mount: 0x20000,
  cgroup: 0x2000000,
  uts: 0x4000000,
  ipc: 0x8000000,
  user: 0x10000000,
  pid: 0x20000000,
  network: 0x40000000,
} as const;

export type NamespaceKind = keyof typeof namespaceFlag;

/** struct ifreq */
export const interfaceRequestLayout = { size: 40, name: 0, flags: 16 } as const;

const unshareCall = setupSyscall<[number]>(
  { name: 'unshare', number: callNumber.unshare, parameters: 'int flags' },
  describeFlags,
);
const tryUnshare = trySyscall<[number, number, number, number, number, number, bigint]>(
  'long syscall(long number, int flags, long b, long c, long d, long e, uint64_t mark)',
);
const setnsCall = setupSyscall<[number, number]>(
  { name: 'setns', number: callNumber.setns, parameters: 'int fd, int type' },
  (_fd, type) => describeFlags(type),
);
const sethostnameCall = setupSyscall<[string, number]>(
  {
    name: 'sethostname',
    number: callNumber.sethostname,
    parameters: 'const char *name, size_t length',
  },
  (name) => `"${name}"`,
);
const setdomainnameCall = setupSyscall<[string, number]>(
  {
    name: 'setdomainname',
    number: callNumber.setdomainname,
    parameters: 'const char *name, size_t length',
  },
  (name) => `"${name}"`,
);
const socketCall = syscall<[number, number, number]>(
  'int socket(int domain, int type, int protocol)',
);
const ioctlCall = setupSyscall<[number, number, Uint8Array]>({
  name: 'ioctl',
  number: callNumber.ioctl,
  parameters: 'int fd, unsigned long request, uint8_t *argument',
});

/** Flags are values of `namespaceFlag`, or-ed. */
export function unshare(flags: number): void {
  unshareCall(flags);
}

/** Whether the setup's unshare(2) is let through to the kernel. Asking changes nothing. */
export function mayUnshare(): boolean {
  return tryUnshare(callNumber.unshare, 0, 0, 0, 0, 0, setupMark) === 0;
}

/** Gives this thread a root and a working directory of its own, which setns(2) to mounts needs. */
export function unshareWorkingDirectory(): void {
  const CLONE_FS = 0x200;
  unshareCall(CLONE_FS);
}

/** Joins the namespace behind a descriptor; `flag` asserts its kind. */
export function joinNamespace(fd: number, flag: number): void {
  setnsCall(fd, flag);
}

export function setHostname(name: string): void {
  sethostnameCall(name, Buffer.byteLength(name));
}

export function setDomainName(name: string): void {
  setdomainnameCall(name, Buffer.byteLength(name));
}

/** A descriptor for a namespace of this thread. Close-on-exec. */
export function openOwnNamespace(kind: NamespaceKind): number {
  return openSync(`/proc/thread-self/ns/${kernelNames[kind] ?? kind}`, 'r');
}

/** Where /proc calls a kind otherwise than we do. */
const kernelNames: Partial<Record<NamespaceKind, string>> = { mount: 'mnt', network: 'net' };

/** The namespaces that this thread is in when this is made, for it to come back to. */
export class OwnNamespaces {
  readonly #fds: ReadonlyMap<NamespaceKind, number>;

  constructor(kinds: readonly NamespaceKind[]) {
    this.#fds = new Map(kinds.map((kind) => [kind, openOwnNamespace(kind)]));
  }

  rejoin(): void {
    for (const [kind, fd] of this.#fds) joinNamespace(fd, namespaceFlag[kind]);
  }

  close(): void {
    for (const fd of this.#fds.values()) closeSync(fd);
  }
}

/** Runs something short in another network namespace: what it opens there stays there. */
export function inNetworkNamespace<T>(fd: number, run: () => T): T {
  const own = new OwnNamespaces(['network']);
  try {
    joinNamespace(fd, namespaceFlag.network);
    try {
      return run();
    } finally {
      own.rejoin();
    }
  } finally {
    own.close();
  }
}

/** Switches the loopback interface of the current network namespace on. */
export function bringLoopbackUp(): void {
  const AF_INET = 2;
  const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
  const SIOCSIFFLAGS = 0x8914;
  const IFF_UP = 1;
  const fd = socketCall(AF_INET, SOCK_DGRAM_CLOEXEC, 0);
  try {
    const request = Buffer.alloc(interfaceRequestLayout.size);
    request.write('lo', interfaceRequestLayout.name, 'latin1');
    request.writeInt16LE(IFF_UP, interfaceRequestLayout.flags);
    ioctlCall(fd, SIOCSIFFLAGS, request);
  } finally {
    closeSync(fd);
  }
}

function describeFlags(flags: number): string {
  const names = Object.entries(namespaceFlag)
    .filter(([, flag]) => (flags & flag) !== 0)
    .map(([name]) => name);
  return names.join('+');
}
