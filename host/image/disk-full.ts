/** A full disk, or cache, is the operator's to mend, and no fault of the image. */
import { HatchError, messageOf } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import type { Digest } from './digest.ts';

/** `image.cache_full` when that is what failed. */
export function diskFull(error: unknown, what: string): HatchError | undefined {
  if (!isErrno(error, 'ENOSPC', 'EDQUOT')) return undefined;
  return new HatchError(
    'image.cache_full',
    `Cannot store ${what}: the disk of the state directory is full (${messageOf(error)}); ` +
      'free some of it, "hatch image gc" gives back what nothing uses',
    { cause: error },
  );
}

/** A layer that does not fit beside what is pinned and mounted. */
export function cacheFull(
  digest: Digest,
  usage: { roomBytes: number; capacityBytes: number },
  cause: unknown,
): HatchError {
  return new HatchError(
    'image.cache_full',
    `Cannot store layer ${digest}: it needs more than the ${usage.roomBytes} of ` +
      `${usage.capacityBytes} bytes that are not pinned or mounted`,
    { cause, details: usage },
  );
}
