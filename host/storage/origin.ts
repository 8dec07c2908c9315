/**
 * Where a file in an upper directory came from. Overlayfs marks each inode it copies up with the
 * file handle of the lower one; a new file has no mark, nor has one that replaced a lower file.
 */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { isErrno } from '../sys/errors.ts';
import { openHandle } from '../sys/file-handle.ts';
import { getAttribute } from '../sys/file.ts';

const originAttribute = 'trusted.overlay.origin';

// fs/overlayfs/overlayfs.h, struct ovl_fb: version, magic, length, flags, type, a UUID, the handle.
const magicOffset = 1;
const magic = 0xfb;
const lengthOffset = 2;
const typeOffset = 4;
const handleOffset = 21;

export interface OriginHandle {
  type: number;
  /** Empty when the lower file system has no handles: copied, but from where is not known. */
  bytes: Uint8Array;
}

/** The mark of the file at `path`, or undefined when it was not copied up (or has gone). */
export function originHandle(path: string): OriginHandle | undefined {
  const value = readMark(path);
  if (value === undefined) return undefined;
  const length = value[lengthOffset] ?? 0;
  if (value.length < handleOffset || value[magicOffset] !== magic || length > value.length)
    return { type: 0, bytes: Buffer.alloc(0) };
  return { type: value[typeOffset] ?? 0, bytes: value.subarray(handleOffset, length) };
}

/**
 * A path descriptor of the lower file with that handle, for the caller to close; undefined when no
 * layer has it. The handle finds a file that was renamed on its way up, too.
 */
export function openLower(
  origin: OriginHandle,
  lowerDirectories: readonly string[],
): number | undefined {
  if (origin.bytes.length === 0) return undefined;
  const devices = new Set<number>();
  for (const directory of lowerDirectories) {
    const fd = openSync(directory, constants.O_DIRECTORY);
    try {
      const { dev } = fstatSync(fd);
      // As a rule the layers are on one file system: one look.
      if (devices.has(dev)) continue;
      devices.add(dev);
      const lower = openFile(fd, origin);
      if (lower !== undefined) return lower;
    } finally {
      closeSync(fd);
    }
  }
  return undefined;
}

function readMark(path: string): Buffer | undefined {
  try {
    return getAttribute(path, originAttribute);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

function openFile(mountFd: number, origin: OriginHandle): number | undefined {
  const fd = openHandle(mountFd, origin);
  if (fd === undefined || fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  return undefined;
}
