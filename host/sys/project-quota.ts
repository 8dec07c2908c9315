/**
 * Limits on all files of a project, on ext4 and xfs where they are mounted with `prjquota`
 * (quotactl(2), <linux/fs.h>).
 */
import { isErrno, SyscallError } from './errors.ts';
import { numberedSyscall, syscall } from './libc.ts';
import { callNumber } from './numbers.ts';

const FS_IOC_FSGETXATTR = 0x801c581f;
const FS_IOC_FSSETXATTR = 0x401c5820;
const FS_XFLAG_PROJINHERIT = 0x200;
const PRJQUOTA = 2;
const Q_GETQUOTA = 0x800007;
const Q_SETQUOTA = 0x800008;
const Q_XGETQSTAT = 0x5805;
const FS_QUOTA_PDQ_ENFD = 32;
const QIF_BLIMITS = 1;
const QIF_ILIMITS = 4;

export const fileAttributesLayout = { size: 28, flags: 0, projectId: 12 } as const;
export const quotaStateLayout = { size: 80, flags: 2 } as const;
export const diskQuotaLayout = {
  size: 72,
  bytesMax: 0,
  usedBytes: 16,
  filesMax: 24,
  usedFiles: 40,
  valid: 64,
} as const;
/** Of `bytesMax`; what is used is told in bytes. */
const quotaBlockBytes = 1024;

const ioctl = syscall<[number, number, Uint8Array]>(
  'int ioctl(int fd, unsigned long request, uint8_t *argument)',
  (_fd, request) => (request === FS_IOC_FSSETXATTR ? 'set a project' : 'get a project'),
);
const quotactl = numberedSyscall<[number, number, number, Uint8Array]>({
  name: 'quotactl_fd',
  number: callNumber.quotactl_fd,
  parameters: 'unsigned int fd, unsigned int command, unsigned int id, uint8_t *argument',
});

/** 0 stands for none. */
export interface ProjectLimit {
  bytesMax: number;
  filesMax: number;
}

/** Whether limits hold on the file system of an open file. Linux before 5.14 can't be asked. */
export function enforcesProjectLimits(fd: number): boolean {
  const state = Buffer.alloc(quotaStateLayout.size);
  try {
    quotactl(fd, command(Q_XGETQSTAT), 0, state);
    return (state.readUInt16LE(quotaStateLayout.flags) & FS_QUOTA_PDQ_ENFD) !== 0;
  } catch (error) {
    // Each file system has its own errno for what it does not have.
    if (error instanceof SyscallError) return false;
    throw error;
  }
}

/** Makes a directory, and all that is made in it from now on, part of a project. */
export function assignProject(fd: number, projectId: number): void {
  const { size, flags, projectId: at } = fileAttributesLayout;
  const attributes = Buffer.alloc(size);
  ioctl(fd, FS_IOC_FSGETXATTR, attributes);
  // As unsigned, which JavaScript's own operators are not.
  const inherits = (attributes.readUInt32LE(flags) | FS_XFLAG_PROJINHERIT) >>> 0;
  attributes.writeUInt32LE(inherits, flags);
  attributes.writeUInt32LE(projectId, at);
  ioctl(fd, FS_IOC_FSSETXATTR, attributes);
}

/** What a project of the file system of `fd` may have; beyond it is `EDQUOT`, on xfs `ENOSPC`. */
export function limitProject(fd: number, projectId: number, limit: ProjectLimit): void {
  const quota = Buffer.alloc(diskQuotaLayout.size);
  const blocks = BigInt(Math.ceil(limit.bytesMax / quotaBlockBytes));
  quota.writeBigUInt64LE(blocks, diskQuotaLayout.bytesMax);
  quota.writeBigUInt64LE(BigInt(limit.filesMax), diskQuotaLayout.filesMax);
  quota.writeUInt32LE(QIF_BLIMITS | QIF_ILIMITS, diskQuotaLayout.valid);
  quotactl(fd, command(Q_SETQUOTA), projectId, quota);
}

/** Whether nothing on the file system of `fd` belongs to a project. */
export function isProjectUnused(fd: number, projectId: number): boolean {
  const quota = Buffer.alloc(diskQuotaLayout.size);
  try {
    quotactl(fd, command(Q_GETQUOTA), projectId, quota);
  } catch (error) {
    // xfs keeps nothing of a project that has nothing.
    if (isErrno(error, 'ENOENT', 'ESRCH')) return true;
    throw error;
  }
  const { usedBytes, usedFiles } = diskQuotaLayout;
  return quota.readBigUInt64LE(usedBytes) === 0n && quota.readBigUInt64LE(usedFiles) === 0n;
}

/** QCMD of <linux/quota.h>. */
function command(of: number): number {
  return of * 256 + PRJQUOTA;
}
