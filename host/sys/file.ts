/**
 * File system calls that Node lacks: everything relative to a directory's descriptor, path lookup
 * with restrictions (openat2(2), Linux 5.6), special files and extended attributes.
 */
import { errnoOf, numberedSyscall, syscall, syscallError, trySyscall } from './libc.ts';
import { callNumber } from './numbers.ts';

// <linux/fcntl.h>, <linux/stat.h>, <sys/xattr.h>
export const AT_SYMLINK_NOFOLLOW = 0x100;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;
const ERANGE = errnoOf('ERANGE');
const xattrBytesMax = 65536;

/** Open flags of every Linux; the others are in `fs.constants`. */
export const O_PATH = 0o10000000;
export const O_CLOEXEC = 0o2000000;

/** Restrictions on how a path is walked (<linux/openat2.h>); may be or-ed. */
export const resolve = {
  noCrossMounts: 0x01,
  noMagicLinks: 0x02,
  noSymlinks: 0x04,
  beneath: 0x08,
  inRoot: 0x10,
} as const;

export interface OpenHow {
  /** O_* flags; O_CLOEXEC is added. */
  flags: number;
  /** Permission bits of a file that O_CREAT makes. */
  mode?: number;
  /** RESOLVE_* restrictions. */
  resolve: number;
}

const openParameters = 'int dirfd, const char *path, const void *how, size_t size';
const openat2 = numberedSyscall<[number, string, Uint8Array, number]>(
  { name: 'openat2', number: callNumber.openat2, parameters: openParameters },
  (_fd, path) => `"${path}"`,
);
const mkdirat = syscall<[number, string, number]>(
  'int mkdirat(int dirfd, const char *path, unsigned int mode)',
  (_fd, path) => `"${path}"`,
);
const mknodat = syscall<[number, string, number, bigint]>(
  'int mknodat(int dirfd, const char *path, unsigned int mode, uint64_t device)',
  (_fd, path) => `"${path}"`,
);
const symlinkat = syscall<[string, number, string]>(
  'int symlinkat(const char *target, int dirfd, const char *path)',
  (_target, _fd, path) => `"${path}"`,
);
const linkat = syscall<[number, string, number, string, number]>(
  'int linkat(int old_fd, const char *old_path, int new_fd, const char *new_path, int flags)',
  (_oldFd, oldPath, _newFd, newPath) => `"${oldPath}" -> "${newPath}"`,
);
const unlinkat = syscall<[number, string, number]>(
  'int unlinkat(int dirfd, const char *path, int flags)',
  (_fd, path) => `"${path}"`,
);
const fchownat = syscall<[number, string, number, number, number]>(
  'int fchownat(int dirfd, const char *path, unsigned int uid, unsigned int gid, int flags)',
  (_fd, path) => `"${path}"`,
);
const fchmodat = syscall<[number, string, number, number]>(
  'int fchmodat(int dirfd, const char *path, unsigned int mode, int flags)',
  (_fd, path) => `"${path}"`,
);
const utimensat = syscall<[number, string, Uint8Array, number]>(
  'int utimensat(int dirfd, const char *path, const void *times, int flags)',
  (_fd, path) => `"${path}"`,
);
const fsetxattr = syscall<[number, string, Uint8Array, number, number]>(
  'int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)',
  (_fd, name) => `"${name}"`,
);
const lsetxattr = syscall<[string, string, Uint8Array, number, number]>(
  'int lsetxattr(const char *path, const char *name, const void *value, size_t size, int flags)',
  (path, name) => `"${name}" on "${path}"`,
);
const lgetxattr = trySyscall<[string, string, Uint8Array, number]>(
  'long lgetxattr(const char *path, const char *name, _Out_ void *value, size_t size)',
);
const llistxattr = trySyscall<[string, Uint8Array, number]>(
  'long llistxattr(const char *path, _Out_ void *list, size_t size)',
);

/** Opens `path` below a directory's descriptor, walking it under restrictions. Close-on-exec. */
export function openAt(directoryFd: number, path: string, how: OpenHow): number {
  const bytes = encodeOpenHow(how);
  return openat2(directoryFd, path, bytes, bytes.length);
}

/** struct open_how { __u64 flags, mode, resolve; } */
export function encodeOpenHow(how: OpenHow): Buffer {
  const bytes = Buffer.alloc(24);
  bytes.writeBigUInt64LE(BigInt(how.flags | O_CLOEXEC), 0);
  bytes.writeBigUInt64LE(BigInt(how.mode ?? 0), 8);
  bytes.writeBigUInt64LE(BigInt(how.resolve), 16);
  return bytes;
}

export function makeDirectoryAt(directoryFd: number, name: string, mode: number): void {
  mkdirat(directoryFd, name, mode);
}

/** The character device 0:0 with which overlayfs marks a name as deleted. */
export function makeWhiteoutAt(directoryFd: number, name: string): void {
  mknodat(directoryFd, name, S_IFCHR, 0n);
}

export function makeFifoAt(directoryFd: number, name: string): void {
  mknodat(directoryFd, name, S_IFIFO | 0o600, 0n);
}

/** A device node at an absolute path. */
export function makeDevice(options: {
  path: string;
  type: 'character' | 'block';
  mode: number;
  major: number;
  minor: number;
}): void {
  const AT_FDCWD = -100;
  const S_IFBLK = 0o060000;
  const type = options.type === 'character' ? S_IFCHR : S_IFBLK;
  mknodat(AT_FDCWD, options.path, type | options.mode, encodeDevice(options));
}

/** `target` is stored as it is, never looked up. */
export function makeSymlinkAt(directoryFd: number, name: string, target: string): void {
  symlinkat(target, directoryFd, name);
}

/** A second name for a file; a symlink is linked itself, not what it points to. */
export function makeHardLinkAt(
  from: { directoryFd: number; name: string },
  to: { directoryFd: number; name: string },
): void {
  linkat(from.directoryFd, from.name, to.directoryFd, to.name, 0);
}

export function removeAt(directoryFd: number, name: string): void {
  unlinkat(directoryFd, name, 0);
}

/** Owner of the file itself, also when it is a symlink. */
export function changeOwnerAt(
  directoryFd: number,
  name: string,
  owner: { uid: number; gid: number },
): void {
  fchownat(directoryFd, name, owner.uid, owner.gid, AT_SYMLINK_NOFOLLOW);
}

/** Permission bits; follows a symlink, so `name` must not be one. */
export function changeModeAt(directoryFd: number, name: string, mode: number): void {
  fchmodat(directoryFd, name, mode, 0);
}

/** Access and modification time, both `timeMs`, of the file itself, also when it is a symlink. */
export function changeTimeAt(directoryFd: number, name: string, timeMs: number): void {
  const seconds = Math.floor(timeMs / 1000);
  const nanoseconds = Math.round((timeMs - seconds * 1000) * 1e6);
  // struct timespec { __s64 tv_sec, tv_nsec; } times[2]
  const times = Buffer.alloc(32);
  for (const offset of [0, 16]) {
    times.writeBigInt64LE(BigInt(seconds), offset);
    times.writeBigInt64LE(BigInt(nanoseconds), offset + 8);
  }
  utimensat(directoryFd, name, times, AT_SYMLINK_NOFOLLOW);
}

/** Sets an extended attribute on an open file or directory (not one opened with O_PATH). */
export function setAttribute(fd: number, name: string, value: Uint8Array): void {
  fsetxattr(fd, name, value, value.length, 0);
}

/** Sets an extended attribute of the file itself, also when it is a symlink. */
export function setAttributeOfPath(path: string, name: string, value: Uint8Array): void {
  lsetxattr(path, name, value, value.length, 0);
}

/** An extended attribute of the file itself, or undefined when it has none of that name. */
export function getAttribute(path: string, name: string): Buffer | undefined {
  let value = Buffer.alloc(256);
  let size = lgetxattr(path, name, value, value.length);
  if (size === -ERANGE) {
    value = Buffer.alloc(xattrBytesMax);
    size = lgetxattr(path, name, value, value.length);
  }
  if (size === -errnoOf('ENODATA') || size === -errnoOf('EOPNOTSUPP')) return undefined;
  if (size < 0) throw syscallError('lgetxattr', size, `"${name}" of "${path}"`);
  return value.subarray(0, size);
}

/** The names of all extended attributes of the file itself. */
export function listAttributes(path: string): string[] {
  let list = Buffer.alloc(1024);
  let size = llistxattr(path, list, list.length);
  if (size === -ERANGE) {
    list = Buffer.alloc(xattrBytesMax);
    size = llistxattr(path, list, list.length);
  }
  if (size === -errnoOf('EOPNOTSUPP')) return [];
  if (size < 0) throw syscallError('llistxattr', size, `"${path}"`);
  return list.toString('utf8', 0, size).split('\0').filter(Boolean);
}

/** glibc's makedev(3). */
function encodeDevice(device: { major: number; minor: number }): bigint {
  const major = BigInt(device.major);
  const minor = BigInt(device.minor);
  return (
    ((major & 0xfffff000n) << 32n) |
    ((major & 0xfffn) << 8n) |
    ((minor & 0xffffff00n) << 12n) |
    (minor & 0xffn)
  );
}
