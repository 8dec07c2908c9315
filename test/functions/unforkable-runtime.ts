/**
 * The runtime of containers on a Node.js that does not survive a fork: `madvise(MADV_DOFORK)` does
 * nothing here, so V8's pages stay out of every child, which dies at its first bytecode.
 */
import { callNumber } from '../../host/sys/numbers.ts';
import { loadSeccompFilter } from '../../host/sys/seccomp-filter.ts';

const MADV_DOFORK = 11;
// seccomp_data: the call's number at 0, the low half of its third argument at 32.
const program: [code: number, jumpTrue: number, jumpFalse: number, k: number][] = [
  [0x20, 0, 0, 0],
  [0x15, 0, 3, callNumber.madvise],
  [0x20, 0, 0, 32],
  [0x15, 0, 1, MADV_DOFORK],
  [0x06, 0, 0, 0x00050000],
  [0x06, 0, 0, 0x7fff0000],
];
const bytes = Buffer.alloc(program.length * 8);
program.forEach(([code, jumpTrue, jumpFalse, k], index) => {
  bytes.writeUInt16LE(code, index * 8);
  bytes[index * 8 + 2] = jumpTrue;
  bytes[index * 8 + 3] = jumpFalse;
  bytes.writeUInt32LE(k, index * 8 + 4);
});
// Only the zygote forks; what it executes has no right to add a filter, and no need of one.
if (process.argv[2] === 'zygote') loadSeccompFilter(bytes, { allThreads: true });
void import('../../runtime-init/main.ts');
