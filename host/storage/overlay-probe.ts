/** What overlayfs can do here, found out by doing it: versions lie, and backports exist. */
import { appendFileSync, closeSync, mkdirSync, writeFileSync } from 'node:fs';
import { HatchError, messageOf } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import type { LowerOption } from './layer-paths.ts';
import { originHandle } from './origin.ts';
import { mountOverlay } from './overlay-mount.ts';
import type { ScratchSpace } from './scratch.ts';

/**
 * Mounts a layer of one file and writes to that file.
 *
 * @throws HatchError `host.unsupported`, with what is missing.
 */
export function probeOverlay(space: ScratchSpace): LowerOption {
  try {
    return probe(space, 'append');
  } catch (error) {
    // The kernel may just be too old to know the option.
    if (!isErrno(error, 'EINVAL')) throw unsupported(error);
  }
  try {
    return probe(space, 'list');
  } catch (error) {
    throw unsupported(error);
  }
}

function probe(space: ScratchSpace, lowerOption: LowerOption): LowerOption {
  const scratch = space.take(undefined);
  try {
    const { directory } = scratch;
    const layer = `${directory}/layer`;
    mkdirSync(layer);
    writeFileSync(`${layer}/file`, 'lower');
    const mountFd = mountOverlay({
      directory,
      lowerDirectories: [layer],
      lowerOption,
      persistent: space.persistent,
    });
    try {
      appendFileSync(`/proc/self/fd/${mountFd}/file`, '+');
    } finally {
      closeSync(mountFd);
    }
    if (originHandle(`${directory}/upper/file`) === undefined)
      throw new Error('its file system keeps no "trusted." attributes or has no file handles');
    return lowerOption;
  } finally {
    scratch.release().catch(() => undefined);
  }
}

function unsupported(error: unknown): HatchError {
  return new HatchError(
    'host.unsupported',
    `Cannot use overlayfs for the writable roots: ${messageOf(error)}; ` +
      'run as root on a kernel with overlay (modprobe overlay), with state on ext4, xfs or btrfs',
    { cause: error },
  );
}
