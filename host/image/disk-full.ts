/** A full disk is the operator's to mend, and no fault of the image. */
import { HatchError, messageOf } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';

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
