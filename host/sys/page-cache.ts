/** What of a file the kernel keeps in memory: asked, and advised on (posix_fadvise(2)). */
import { asyncSyscall, errnoName, libraryFunction, syscall } from './libc.ts';

export interface ByteRange {
  offsetBytes: number;
  lengthBytes: number;
}

// <linux/fadvise.h>
const willNeed = 3;
const dontNeed = 4;
// <linux/mman.h>
const protRead = 1;
const mapShared = 1;

export const pageBytes = 4096;
/**
 * Of one advice the kernel reads no more than the device's read-ahead, whatever was asked for;
 * this is the default, and few have less.
 */
const windowBytes = 128 * 1024;

const adviceParameters = '(int fd, int64_t offset, int64_t length, int advice)';
type Advice = [fd: number, offset: number, length: number, advice: number];
/** They return the number of the error, and do not set errno. */
const posixFadvise = libraryFunction<Advice>('libc.so.6', `int posix_fadvise${adviceParameters}`);
const posixFadviseAsync = asyncSyscall<Advice>(`int posix_fadvise${adviceParameters}`);
const mmap = syscall<[number, number, number, number, number, number]>(
  'int64_t mmap(int64_t at, size_t length, int protection, int flags, int fd, int64_t offset)',
);
const munmap = syscall<[number, number]>('int munmap(int64_t address, size_t length)');
const mincore = syscall<[number, number, Uint8Array]>(
  'int mincore(int64_t address, size_t length, void *pages)',
);

/** What of an open file is clean and not mapped goes. */
export function dropCached(fd: number): void {
  check(posixFadvise(fd, 0, 0, dontNeed));
}

/** Begins to read a part of an open file in; resolves when all of it is asked of the disk. */
export async function readIn(fd: number, { offsetBytes, lengthBytes }: ByteRange): Promise<void> {
  const endBytes = offsetBytes + lengthBytes;
  for (let at = offsetBytes; at < endBytes; at += windowBytes)
    check(await posixFadviseAsync(fd, at, Math.min(windowBytes, endBytes - at), willNeed));
}

/** Which parts of an open file are in memory, page by page, in their order. */
export function cachedRanges(fd: number, sizeBytes: number): ByteRange[] {
  if (sizeBytes === 0) return [];
  const pages = new Uint8Array(Math.ceil(sizeBytes / pageBytes));
  const address = mmap(0, sizeBytes, protRead, mapShared, fd, 0);
  try {
    mincore(address, sizeBytes, pages);
  } finally {
    munmap(address, sizeBytes);
  }
  const ranges: ByteRange[] = [];
  for (let page = 0; page < pages.length; page++) {
    if (((pages[page] ?? 0) & 1) === 0) continue;
    ranges.push({ offsetBytes: page * pageBytes, lengthBytes: pageBytes });
  }
  return ranges;
}

function check(code: number): void {
  if (code !== 0) throw new Error(`Cannot advise on a file: ${errnoName(code)}`);
}
