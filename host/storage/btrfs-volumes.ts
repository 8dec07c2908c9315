/** Volumes on btrfs: a subvolume each, limited by a quota; what is read is checked by checksums. */
import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  existsSync,
  openSync,
  renameSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { HatchError, messageOf } from '../base/errors.ts';
import {
  createSubvolume,
  destroySubvolume,
  enableQuotas,
  isOnBtrfs,
  limitSubvolume,
  removeQuotaGroup,
  subvolumeId,
  subvolumeUsage,
  syncFileSystem,
} from '../sys/btrfs.ts';
import type { VolumeDriver } from './volumes.ts';

/** @throws HatchError `host.unsupported` when quotas cannot be switched on */
export function openBtrfsVolumes(stateDirectory: string): VolumeDriver | undefined {
  if (!isOnBtrfs(stateDirectory)) return undefined;
  try {
    withDirectory(stateDirectory, enableQuotas);
  } catch (cause) {
    const message = `Cannot limit volumes in "${stateDirectory}": ${messageOf(cause)}`;
    throw new HatchError('host.unsupported', message, { cause });
  }
  return driver;
}

const driver: VolumeDriver = {
  async make(path, { uid, gid }) {
    const directoryFd = openSync(dirname(path), constants.O_DIRECTORY);
    // What a crash leaves of it has another name, and is made anew.
    const name = `.${basename(path)}`;
    const unready = join(dirname(path), name);
    try {
      if (existsSync(unready)) await destroySubvolume({ directoryFd, name });
      createSubvolume({ directoryFd, name });
      chownSync(unready, uid, gid);
      chmodSync(unready, 0o700);
      await syncFileSystem(directoryFd);
      renameSync(unready, path);
      await syncFileSystem(directoryFd);
    } finally {
      closeSync(directoryFd);
    }
  },
  limit: (path, sizeBytes) => withDirectory(path, (fd) => limitSubvolume(fd, sizeBytes, 'all')),
  usage: (path) => withDirectory(path, subvolumeUsage),
  async remove(path) {
    const id = withDirectory(path, subvolumeId);
    const directoryFd = openSync(dirname(path), constants.O_DIRECTORY);
    try {
      await destroySubvolume({ directoryFd, name: basename(path) });
      removeQuotaGroup(directoryFd, id);
    } finally {
      closeSync(directoryFd);
    }
  },
};

function withDirectory<T>(path: string, use: (fd: number) => T): T {
  const fd = openSync(path, constants.O_DIRECTORY);
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}
