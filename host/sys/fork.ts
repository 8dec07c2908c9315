/**
 * Forking a running Node.js. V8 marks its pages MADV_DONTFORK, so a plain fork() dies at its first
 * bytecode. It lives under three conditions, each found by experiment: the process was started with
 * `--single-threaded`; V8's pages are made forkable again, for good (`makeForkable`); the child
 * tells libuv that it was forked (`adoptEventLoop`). The child must leave through `exitNow`.
 */
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { libraryFunction, numberedSyscall, syscall, trySyscall } from './libc.ts';
import { callNumber } from './numbers.ts';
import { loadSeccompFilter } from './seccomp-filter.ts';

const MADV_DONTFORK = 10;
const MADV_DOFORK = 11;
const WNOHANG = 1;

/** malloc maps larger ones by themselves, and has no smaller ones. */
const largestGapBytes = 65_536;
/** All that is asked for below this comes in blocks of the same size. */
const smallestGapBytes = 16;
const growTriesMax = 1024;

const forkCall = syscall<[]>('int fork()');
const exitCall = libraryFunction<[number], void>(null, 'void _exit(int status)');
const waitpidCall = trySyscall<[number, Uint8Array, number]>(
  'int waitpid(int pid, uint8_t *status, int options)',
);
const madvise = syscall<[bigint, bigint, number]>(
  'int madvise(uint64_t address, size_t length, int advice)',
);
const pidfdOpenCall = numberedSyscall<[number, number]>(
  { name: 'pidfd_open', number: callNumber.pidfd_open, parameters: 'int pid, unsigned int flags' },
  (pid) => `of process ${pid}`,
);
const pidfdSendSignal = trySyscall<[number, number, number, null, number]>(
  'long syscall(long number, int pidfd, int signal, void *info, unsigned int flags)',
);
const uvDefaultLoop = libraryFunction<[], bigint>(null, 'void *uv_default_loop()');
const uvLoopFork = libraryFunction<[bigint]>(null, 'int uv_loop_fork(void *loop)');
const uvBackendFd = libraryFunction<[bigint]>(null, 'int uv_backend_fd(void *loop)');
const getrandom = syscall<[Uint8Array, number, number]>(
  'long getrandom(uint8_t *buffer, size_t size, unsigned int flags)',
);
const mallocTrim = libraryFunction<[number]>(null, 'int malloc_trim(size_t pad)');
const mallocCall = libraryFunction<[number], bigint>('libc.so.6', 'uint64_t malloc(size_t size)');
const freeCall = libraryFunction<[bigint], void>('libc.so.6', 'void free(uint64_t block)');
const sbrk = libraryFunction<[number], bigint>('libc.so.6', 'uint64_t sbrk(intptr_t more)');
const randPoll = libraryFunction<[]>(null, 'int RAND_poll()');

/** Returns 0 in the child. Call it from straight-line code, never with work in flight. */
export function fork(): number {
  return forkCall();
}

/**
 * Ends the process without running exit handlers, which belong to the process it was forked from.
 */
export function exitNow(status: number): never {
  exitCall(status);
  throw new Error('_exit returned');
}

/**
 * Makes everything V8 has mapped, and all it will map, survive fork(). A seccomp filter of its own
 * turns madvise(MADV_DONTFORK) into a no-op, and io_uring_setup into ENOSYS so that libuv keeps to
 * plain epoll, which the containers' own filter allows. Needs CAP_SYS_ADMIN. Every later child
 * inherits the filter.
 */
export function makeForkable(): void {
  loadSeccompFilter(forkFilter(), { allThreads: true });
  let start = 0n;
  let end = 0n;
  for (const line of readFileSync('/proc/self/smaps', 'latin1').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range !== null) {
      start = BigInt(`0x${range[1]}`);
      end = BigInt(`0x${range[2]}`);
    } else if (line.startsWith('VmFlags:') && / dc( |$)/.test(line)) {
      madvise(start, end - start, MADV_DOFORK);
    }
  }
}

/**
 * Before the first fork: hands free memory back, and uses up the gaps in malloc's heap, for good. A
 * child would fill them one by one, and copy a page for each and for its neighbours in malloc's
 * lists. So its memory comes in one piece, from the end of the heap, and the gaps stay shared.
 */
export function settleHeap(): void {
  mallocTrim(0);
  const end = blockAtTheEnd();
  // Small steps where malloc has a list for each size, longer ones where it sorts within a list.
  const next = (size: number): number =>
    size > 2048 ? Math.floor((size * 0.8) / 16) * 16 : size - 16;
  for (let size = largestGapBytes; size >= smallestGapBytes; size = next(size)) {
    let block = BigInt(mallocCall(size));
    while (block < end) block = BigInt(mallocCall(size));
    freeCall(block);
  }
  freeCall(end);
}

/** The first block for which the heap had to grow: whatever lies before it was in a gap. */
function blockAtTheEnd(): bigint {
  for (let tries = 0; tries < growTriesMax; tries++) {
    const heapEnd = sbrk(0);
    const block = BigInt(mallocCall(largestGapBytes));
    if (sbrk(0) !== heapEnd) return block;
  }
  throw new Error('The C heap does not grow');
}

/** In the child, before any I/O: gives libuv's default loop descriptors of its own. */
export function adoptEventLoop(): void {
  const result = uvLoopFork(uvDefaultLoop());
  if (result !== 0) throw new Error(`uv_loop_fork failed: ${result}`);
}

/** libuv's own descriptor (epoll) of the default loop. */
export function defaultLoopFd(): number {
  return uvBackendFd(uvDefaultLoop());
}

/**
 * In the child: no two children, nor the parent, may share a random number. OpenSSL notices a fork
 * by getpid() only, which repeats between pid namespaces; V8 seeds Math.random at its first use, so
 * the parent must never have used it.
 */
export function renewRandomness(): void {
  if (randPoll() !== 1) throw new Error('RAND_poll failed');
  // Not by node:crypto: its generator takes 0.2 ms to set up, and not every function needs it.
  const seed = Buffer.alloc(4);
  getrandom(seed, seed.length, 0);
  setFlagsFromString(`--random-seed=${seed.readInt32LE(0) | 1}`);
}

/** Status of a child that ended, as wait(2) encodes it. */
export interface WaitedChild {
  pid: number;
  /** 0..255, or 128 + n for a child ended by signal n. */
  exitCode: number;
  signal: number | undefined;
}

/** Reaps one ended child (-1: any); undefined when none has ended or none is left. */
export function reapChild(pid = -1): WaitedChild | undefined {
  const status = Buffer.alloc(4);
  const result = waitpidCall(pid, status, WNOHANG);
  if (result <= 0) return undefined;
  const value = status.readInt32LE(0);
  const signal = value & 0x7f;
  if (signal === 0) return { pid: result, exitCode: (value >> 8) & 0xff, signal: undefined };
  return { pid: result, exitCode: 128 + signal, signal };
}

/** A descriptor that stands for the process itself, not for its number. Close-on-exec. */
export function openPidFd(pid: number): number {
  return pidfdOpenCall(pid, 0);
}

/**
 * Ends exactly that process, even when its number was given to another. False when it has ended.
 */
export function killByPidFd(pidFd: number): boolean {
  const SIGKILL = 9;
  return pidfdSendSignal(callNumber.pidfd_send_signal, pidFd, SIGKILL, null, 0) >= 0;
}

function forkFilter(): Buffer {
  const BPF_LD_W_ABS = 0x20;
  const BPF_JEQ = 0x15;
  const BPF_RET = 0x06;
  const ALLOW = 0x7fff0000;
  const ERRNO = 0x00050000;
  const ENOSYS = 38;
  // seccomp_data: nr at 0, args[2]'s low half at 32. Instructions: code, jump true, jump false, k.
  const program: [number, number, number, number][] = [
    [BPF_LD_W_ABS, 0, 0, 0],
    [BPF_JEQ, 4, 0, callNumber.io_uring_setup],
    [BPF_JEQ, 0, 4, callNumber.madvise],
    [BPF_LD_W_ABS, 0, 0, 32],
    [BPF_JEQ, 0, 2, MADV_DONTFORK],
    [BPF_RET, 0, 0, ERRNO],
    [BPF_RET, 0, 0, ERRNO | ENOSYS],
    [BPF_RET, 0, 0, ALLOW],
  ];
  const bytes = Buffer.alloc(program.length * 8);
  program.forEach(([code, jumpTrue, jumpFalse, k], index) => {
    bytes.writeUInt16LE(code, index * 8);
    bytes[index * 8 + 2] = jumpTrue;
    bytes[index * 8 + 3] = jumpFalse;
    bytes.writeUInt32LE(k, index * 8 + 4);
  });
  return bytes;
}
