/** Advice on what of a file the kernel keeps in memory (posix_fadvise(2)). */
import { errnoName, libraryFunction } from './libc.ts';

// <linux/fadvise.h>
const advices = { willNeed: 3, dontNeed: 4 } as const;

/** It returns the number of the error, and does not set errno. */
const posixFadvise = libraryFunction<[number, number, number, number]>(
  'libc.so.6',
  'int posix_fadvise(int fd, int64_t offset, int64_t length, int advice)',
);

/**
 * On all of an open file. `willNeed`: reading it in begins and is not waited for. `dontNeed`: what
 * is clean and not mapped goes.
 */
export function advise(fd: number, advice: keyof typeof advices): void {
  const code = posixFadvise(fd, 0, 0, advices[advice]);
  if (code !== 0) throw new Error(`Cannot advise on a file: ${errnoName(code)}`);
}
