/** What this kernel can do, asked in ways that change nothing and need no root. */
import { closeSync } from 'node:fs';
import { errnoOf, trySyscall } from './libc.ts';
import { callNumber } from './numbers.ts';

// <linux/landlock.h>
const LANDLOCK_CREATE_RULESET_VERSION = 1;

const landlockCreateRuleset = trySyscall<[number, null, number, number]>(
  'long syscall(long number, const void *attr, size_t size, unsigned int flags)',
);
const pidfdOpen = trySyscall<[number, number, number]>(
  'long syscall(long number, int pid, unsigned int flags)',
);
const clone3 = trySyscall<[number, null, number]>(
  'long syscall(long number, const void *args, size_t size)',
);

/**
 * Undefined where it is not built in, or not switched on at boot. Linux 5.19, the oldest that hosts
 * run on, has 2.
 */
export function landlockAbi(): number | undefined {
  const number = callNumber.landlock_create_ruleset;
  const version = landlockCreateRuleset(number, null, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return version > 1 ? version : undefined;
}

export function hasPidfd(): boolean {
  const fd = pidfdOpen(callNumber.pidfd_open, process.pid, 0);
  if (fd >= 0) closeSync(fd);
  return fd >= 0;
}

export function hasClone3(): boolean {
  // Arguments of no size are refused by a kernel that has it.
  return clone3(callNumber.clone3, null, 0) === -errnoOf('EINVAL');
}
