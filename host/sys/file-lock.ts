/** Locks that die with the process that holds them (flock(2)). */
import { closeSync, openSync } from 'node:fs';
import { errnoOf, syscallError, trySyscall } from './libc.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;

const flock = trySyscall<[number, number]>('int flock(int fd, int operation)');

/**
 * Locks a file, making it when it is missing. Undefined when another process holds it; else a
 * function that gives the lock back.
 */
export function tryLockFile(path: string): (() => void) | undefined {
  const fd = openSync(path, 'a', 0o600);
  const result = flock(fd, LOCK_EX | LOCK_NB);
  if (result === 0) return () => closeSync(fd);
  closeSync(fd);
  if (result === -errnoOf('EAGAIN')) return undefined;
  throw syscallError('flock', result, `"${path}"`);
}
