/** Applying a compiled seccomp program (seccomp(2)); building one is libseccomp's work. */
import { allocate, setupSyscall } from './libc.ts';
import { callNumber } from './numbers.ts';

const SECCOMP_SET_MODE_FILTER = 1;
const SECCOMP_FILTER_FLAG_TSYNC = 1;
const SECCOMP_FILTER_FLAG_NEW_LISTENER = 8;
const SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 16;
const SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32;

/** <linux/filter.h>: the kernel takes no longer program. */
export const filterInstructionsMax = 4096;
const instructionBytes = 8;
/** struct sock_fprog { unsigned short len; struct sock_filter *filter; } on 64 bits. */
export const filterProgramLayout = { size: 16, length: 0, filter: 8 } as const;

const seccompCall = setupSyscall<[number, number, bigint]>({
  name: 'seccomp',
  number: callNumber.seccomp,
  parameters: 'unsigned int operation, unsigned int flags, void *program',
});
const program = allocate(filterProgramLayout.size);
const instructions = allocate(filterInstructionsMax * instructionBytes);

/**
 * Puts the calling thread, or with `allThreads` the process, under the filter for good. Needs
 * no_new_privs or CAP_SYS_ADMIN, else EACCES.
 */
export function loadSeccompFilter(bpf: Uint8Array, options: { allThreads?: boolean } = {}): void {
  load(bpf, options.allThreads === true ? SECCOMP_FILTER_FLAG_TSYNC : 0);
}

/**
 * As `loadSeccompFilter` for all threads. Calls that the filter asks about wait from now on for an
 * answer from whoever holds the descriptor that this gives, see `seccomp-listener.ts`; without a
 * holder they fail with ENOSYS. EBUSY when a filter before has one.
 */
export function loadListenedSeccompFilter(bpf: Uint8Array): number {
  return load(
    bpf,
    SECCOMP_FILTER_FLAG_TSYNC |
      SECCOMP_FILTER_FLAG_TSYNC_ESRCH |
      SECCOMP_FILTER_FLAG_NEW_LISTENER |
      // Or each signal would make the call ask again.
      SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
  );
}

function load(bpf: Uint8Array, flags: number): number {
  const count = bpf.length / instructionBytes;
  if (!Number.isInteger(count) || count < 1 || count > filterInstructionsMax)
    throw new RangeError(`A seccomp filter has 1 to ${filterInstructionsMax} instructions`);
  instructions.bytes.set(bpf);
  program.bytes.writeUInt16LE(count, filterProgramLayout.length);
  program.bytes.writeBigUInt64LE(instructions.address, filterProgramLayout.filter);
  return seccompCall(SECCOMP_SET_MODE_FILTER, flags, program.address);
}
