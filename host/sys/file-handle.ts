/** File handles: the name of an inode that outlives paths (open_by_handle_at(2)). */
import { O_CLOEXEC, O_PATH } from './file.ts';
import { syscallError, trySyscall } from './libc.ts';

/** struct file_handle (<fcntl.h>) */
export const fileHandleLayout = { handleBytes: 0, handleType: 4, handle: 8 } as const;

const openByHandleAt = trySyscall<[number, Uint8Array, number]>(
  'int open_by_handle_at(int mount_fd, void *handle, int flags)',
);

/**
 * A path descriptor (`O_PATH`, close-on-exec) of the inode with that handle, on the file system
 * that `mountFd` is on; undefined when there is none any more. Needs CAP_DAC_READ_SEARCH.
 */
export function openHandle(
  mountFd: number,
  handle: { type: number; bytes: Uint8Array },
): number | undefined {
  const { handleBytes, handleType, handle: start } = fileHandleLayout;
  const buffer = Buffer.alloc(start + handle.bytes.length);
  buffer.writeUInt32LE(handle.bytes.length, handleBytes);
  buffer.writeInt32LE(handle.type, handleType);
  buffer.set(handle.bytes, start);
  const fd = openByHandleAt(mountFd, buffer, O_PATH | O_CLOEXEC);
  if (fd >= 0) return fd;
  const error = syscallError('open_by_handle_at', fd);
  // ESTALE: no such inode; EINVAL: no inode of this file system looks like that.
  if (['ESTALE', 'ENOENT', 'EINVAL', 'EOPNOTSUPP'].includes(error.code)) return undefined;
  throw error;
}
