/** User namespaces with their ids mapped, for others to enter. */
import { openSync, writeFileSync } from 'node:fs';
import { allocate, libraryFunction, syscall } from './libc.ts';
import { namespaceFlag } from './namespace.ts';
import { withEffectiveUser } from './process.ts';

const CLONE_VM = 0x100;
const CLONE_VFORK = 0x4000;

const clone = syscall<[bigint, bigint, number, bigint]>(
  'int clone(uint64_t entry, uint64_t stack, int flags, uint64_t argument)',
);
const waitpid = syscall<[number, null, number]>('int waitpid(int pid, void *status, int options)');
const symbolAddress = libraryFunction<[number, string], number | bigint>(
  null,
  'uint64_t dlsym(uint64_t library, const char *name)',
);

const exitEntry = BigInt(symbolAddress(0, '_exit'));
const stackBytes = 16_384;
const stack = allocate(stackBytes);
/** It grows down; both architectures want it aligned. */
const stackTop = (stack.address + BigInt(stackBytes)) & ~15n;

/**
 * Ids 0..count-1 inside are `firstHostId`.. outside. It lives by the descriptor, the caller's and
 * close-on-exec. Only a new process can make one: this one borrows our memory instead of copying
 * it, does nothing but end, and may be given its maps, and be asked for its namespace, until it is
 * waited for. Any number of threads may run meanwhile.
 *
 * It belongs to the first of its ids. The kernel counts what a user may have (inotify instances,
 * pending signals) for the owner of the namespace, too: were that root, one container could use up
 * what the host and all others have.
 */
export function makeUserNamespace(range: { firstHostId: number; count: number }): number {
  // No signal in the flags: libuv is not to hear of its end.
  const flags = CLONE_VM | CLONE_VFORK | namespaceFlag.user;
  const owner = range.firstHostId;
  const pid = withEffectiveUser(owner, () => clone(exitEntry, stackTop, flags, 0n));
  try {
    const map = `0 ${range.firstHostId} ${range.count}`;
    writeFileSync(`/proc/${pid}/uid_map`, map);
    writeFileSync(`/proc/${pid}/gid_map`, map);
    return openSync(`/proc/${pid}/ns/user`, 'r');
  } finally {
    const __WALL = 0x40000000;
    waitpid(pid, null, __WALL);
  }
}
