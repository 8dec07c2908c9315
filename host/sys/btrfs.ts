/** What btrfs offers beyond files: subvolumes, their snapshots and quotas (<linux/btrfs.h>). */
import { closeSync, openSync, statfsSync } from 'node:fs';
import { isErrno } from './errors.ts';
import { asyncSyscall, syscall } from './libc.ts';

const BTRFS_SUPER_MAGIC = 0x9123683e;
const BTRFS_IOC_SNAP_CREATE_V2 = 0x50009417;
const BTRFS_IOC_SYNC = 0x9408;
const BTRFS_IOC_TREE_SEARCH = 0xd0009411;
const BTRFS_IOC_SUBVOL_CREATE_V2 = 0x50009418;
const BTRFS_IOC_SUBVOL_SETFLAGS = 0x4008941a;
const BTRFS_IOC_SNAP_DESTROY_V2 = 0x5000943f;
const BTRFS_IOC_INO_LOOKUP = 0xd0009412;
const BTRFS_IOC_QUOTA_CTL = 0xc0109428;
const BTRFS_IOC_QGROUP_CREATE = 0x4010942a;
const BTRFS_IOC_QGROUP_LIMIT = 0x8030942b;
const BTRFS_IOC_FS_INFO = 0x8400941f;
const BTRFS_SUBVOL_RDONLY = 2;
const BTRFS_FIRST_FREE_OBJECTID = 256n;
const BTRFS_QUOTA_TREE_OBJECTID = 8n;
/** Keys of the quota tree: no object, one of these, the group's number. */
const BTRFS_QGROUP_INFO_KEY = 242;
const BTRFS_QGROUP_LIMIT_KEY = 244;
const BTRFS_QUOTA_CTL_ENABLE = 1;
/** Linux 6.7: counts what a subvolume writes, without looking for who shares what. */
const quotaEnableSimple = 4;
const BTRFS_QGROUP_LIMIT_MAX_RFER = 1;
const BTRFS_QGROUP_LIMIT_MAX_EXCL = 2;

export const volumeArgumentsLayout = { size: 4096, fd: 0, name: 56 } as const;
export const lookupArgumentsLayout = { size: 4096, treeId: 0, objectId: 8 } as const;
export const quotaArgumentsLayout = { size: 16, command: 0 } as const;
export const quotaGroupArgumentsLayout = { size: 16, create: 0, id: 8 } as const;
/** Group 0 is that of the subvolume the descriptor is in. */
export const quotaLimitArgumentsLayout = {
  size: 48,
  flags: 8,
  referencedMax: 16,
  exclusiveMax: 24,
} as const;
/** struct btrfs_ioctl_search_args: a btrfs_ioctl_search_key, then what was found. */
export const searchArgumentsLayout = {
  size: 4096,
  treeId: 0,
  offsetMin: 24,
  offsetMax: 32,
  transactionMax: 48,
  typeMin: 56,
  typeMax: 60,
  count: 64,
  /** A btrfs_ioctl_search_header, then the item. */
  found: 104,
  headerBytes: 32,
} as const;
export const quotaInfoItemLayout = { size: 40, referenced: 8 } as const;
export const quotaLimitItemLayout = { size: 40, flags: 0, referencedMax: 8 } as const;

export const fileSystemArgumentsLayout = { size: 1024, fsid: 16 } as const;
const fsidBytes = 16;

const ioctlPrototype = 'int ioctl(int fd, unsigned long request, uint8_t *argument)';
const requestNames = new Map([
  [BTRFS_IOC_SYNC, 'write a btrfs to disk'],
  [BTRFS_IOC_TREE_SEARCH, 'read btrfs quotas'],
  [BTRFS_IOC_SNAP_CREATE_V2, 'make a btrfs snapshot'],
  [BTRFS_IOC_SUBVOL_CREATE_V2, 'make a btrfs subvolume'],
  [BTRFS_IOC_SUBVOL_SETFLAGS, 'make a btrfs subvolume read-only'],
  [BTRFS_IOC_SNAP_DESTROY_V2, 'remove a btrfs subvolume'],
  [BTRFS_IOC_INO_LOOKUP, 'look up a btrfs subvolume'],
  [BTRFS_IOC_QUOTA_CTL, 'switch btrfs quotas on'],
  [BTRFS_IOC_QGROUP_CREATE, 'remove a btrfs quota group'],
  [BTRFS_IOC_QGROUP_LIMIT, 'limit a btrfs subvolume'],
  [BTRFS_IOC_FS_INFO, 'identify a btrfs file system'],
]);
const describeRequest = (_fd: number, request: number): string => requestNames.get(request) ?? '';
const ioctl = syscall<[number, number, Uint8Array]>(ioctlPrototype, describeRequest);
const ioctlInBackground = asyncSyscall<[number, number, Uint8Array]>(
  ioctlPrototype,
  describeRequest,
);

/** Where a subvolume is, or is to be. */
export interface SubvolumePlace {
  directoryFd: number;
  name: string;
}

export interface SubvolumeUsage {
  usedBytes: number;
  /** Undefined: none. */
  limitBytes: number | undefined;
}

export function isOnBtrfs(path: string): boolean {
  return statfsSync(path).type === BTRFS_SUPER_MAGIC;
}

/** The file system's id as the kernel writes it, which is how sysfs names it. */
export function btrfsId(directory: string): string {
  const { size, fsid } = fileSystemArgumentsLayout;
  const request = Buffer.alloc(size);
  const fd = openSync(directory, 'r');
  try {
    ioctl(fd, BTRFS_IOC_FS_INFO, request);
  } finally {
    closeSync(fd);
  }
  const hex = request.toString('hex', fsid, fsid + fsidBytes);
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

export function createSubvolume({ directoryFd, name }: SubvolumePlace): void {
  ioctl(directoryFd, BTRFS_IOC_SUBVOL_CREATE_V2, volumeArguments({ name }));
}

/** A writable snapshot of the subvolume at `sourceFd`. It waits for a commit of the file system. */
export function snapshotSubvolume(sourceFd: number, { directoryFd, name }: SubvolumePlace): void {
  ioctl(directoryFd, BTRFS_IOC_SNAP_CREATE_V2, volumeArguments({ name, fd: sourceFd }));
}

/** As `snapshotSubvolume`, without holding up this thread. */
export async function snapshotInBackground(
  sourceFd: number,
  { directoryFd, name }: SubvolumePlace,
): Promise<void> {
  const request = volumeArguments({ name, fd: sourceFd });
  await ioctlInBackground(directoryFd, BTRFS_IOC_SNAP_CREATE_V2, request);
}

/** Removes a subvolume with all that is in it; its space is freed by the kernel in background. */
export async function destroySubvolume({ directoryFd, name }: SubvolumePlace): Promise<void> {
  await ioctlInBackground(directoryFd, BTRFS_IOC_SNAP_DESTROY_V2, volumeArguments({ name }));
}

export function makeSubvolumeReadOnly(fd: number): void {
  const flags = Buffer.alloc(8);
  flags.writeBigUInt64LE(BigInt(BTRFS_SUBVOL_RDONLY));
  ioctl(fd, BTRFS_IOC_SUBVOL_SETFLAGS, flags);
}

/** The number of the subvolume that an open directory belongs to. */
export function subvolumeId(fd: number): bigint {
  const { size, treeId, objectId } = lookupArgumentsLayout;
  const request = Buffer.alloc(size);
  request.writeBigUInt64LE(BTRFS_FIRST_FREE_OBJECTID, objectId);
  ioctl(fd, BTRFS_IOC_INO_LOOKUP, request);
  return request.readBigUInt64LE(treeId);
}

/**
 * Has the file system count what each subvolume takes, the simple way where the kernel can: the
 * other way every commit looks for the other users of what was written. What counts already stays.
 */
export function enableQuotas(fd: number): void {
  try {
    controlQuotas(fd, quotaEnableSimple);
  } catch (error) {
    if (!isErrno(error, 'EINVAL')) throw error;
    controlQuotas(fd, BTRFS_QUOTA_CTL_ENABLE);
  }
}

/**
 * Limits what the subvolume of `fd` has, all of it or what it shares with none: `EDQUOT` beyond.
 * Needs quotas.
 */
export function limitSubvolume(
  fd: number,
  sizeBytes: number,
  of: 'all' | 'unshared' = 'unshared',
): void {
  const { size, flags, referencedMax, exclusiveMax } = quotaLimitArgumentsLayout;
  const request = Buffer.alloc(size);
  const isOfAll = of === 'all';
  const which = isOfAll ? BTRFS_QGROUP_LIMIT_MAX_RFER : BTRFS_QGROUP_LIMIT_MAX_EXCL;
  request.writeBigUInt64LE(BigInt(which), flags);
  request.writeBigUInt64LE(BigInt(sizeBytes), isOfAll ? referencedMax : exclusiveMax);
  ioctl(fd, BTRFS_IOC_QGROUP_LIMIT, request);
}

/** What the subvolume of `fd` has, and may have by `limitSubvolume` of all. Needs quotas. */
export function subvolumeUsage(fd: number): SubvolumeUsage {
  const group = subvolumeId(fd);
  const info = quotaItem(fd, group, BTRFS_QGROUP_INFO_KEY);
  const limit = quotaItem(fd, group, BTRFS_QGROUP_LIMIT_KEY);
  const usedBytes = Number(info?.readBigUInt64LE(quotaInfoItemLayout.referenced) ?? 0);
  const flags = Number(limit?.readBigUInt64LE(quotaLimitItemLayout.flags) ?? 0);
  if (limit === undefined || (flags & BTRFS_QGROUP_LIMIT_MAX_RFER) === 0)
    return { usedBytes, limitBytes: undefined };
  return {
    usedBytes,
    limitBytes: Number(limit.readBigUInt64LE(quotaLimitItemLayout.referencedMax)),
  };
}

/** Resolves when everything of the file system is on its disk. */
export async function syncFileSystem(fd: number): Promise<void> {
  await ioctlInBackground(fd, BTRFS_IOC_SYNC, new Uint8Array(8));
}

/** Forgets the limit of a removed subvolume; from Linux 6.10 the kernel does so by itself. */
export function removeQuotaGroup(fd: number, id: bigint): void {
  const request = Buffer.alloc(quotaGroupArgumentsLayout.size);
  request.writeBigUInt64LE(id, quotaGroupArgumentsLayout.id);
  try {
    ioctl(fd, BTRFS_IOC_QGROUP_CREATE, request);
  } catch (error) {
    // Still counting what is being freed, or gone already.
    if (!isErrno(error, 'EBUSY', 'ENOENT')) throw error;
  }
}

function controlQuotas(fd: number, command: number): void {
  const request = Buffer.alloc(quotaArgumentsLayout.size);
  request.writeBigUInt64LE(BigInt(command), quotaArgumentsLayout.command);
  ioctl(fd, BTRFS_IOC_QUOTA_CTL, request);
}

/** Of one key, so that there is one at most. */
function quotaItem(fd: number, group: bigint, type: number): Buffer | undefined {
  const layout = searchArgumentsLayout;
  const request = Buffer.alloc(layout.size);
  request.writeBigUInt64LE(BTRFS_QUOTA_TREE_OBJECTID, layout.treeId);
  request.writeBigUInt64LE(group, layout.offsetMin);
  request.writeBigUInt64LE(group, layout.offsetMax);
  request.writeBigUInt64LE(2n ** 64n - 1n, layout.transactionMax);
  request.writeUInt32LE(type, layout.typeMin);
  request.writeUInt32LE(type, layout.typeMax);
  request.writeUInt32LE(1, layout.count);
  ioctl(fd, BTRFS_IOC_TREE_SEARCH, request);
  if (request.readUInt32LE(layout.count) === 0) return undefined;
  return request.subarray(layout.found + layout.headerBytes);
}

function volumeArguments({ name, fd = 0 }: { name: string; fd?: number }): Buffer {
  const layout = volumeArgumentsLayout;
  const request = Buffer.alloc(layout.size);
  request.writeBigInt64LE(BigInt(fd), layout.fd);
  request.write(name, layout.name, 'utf8');
  return request;
}
