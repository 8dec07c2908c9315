/** The mount API by descriptors (fsopen(2), open_tree(2), move_mount(2)); Linux 5.12 or newer. */
import { setupSyscall, trySyscall } from './libc.ts';
import { callNumber } from './numbers.ts';

// <linux/mount.h>, <linux/fcntl.h>
const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const AT_RECURSIVE = 0x8000;
const FSOPEN_CLOEXEC = 1;
const FSMOUNT_CLOEXEC = 1;
const OPEN_TREE_CLONE = 1;
const OPEN_TREE_CLOEXEC = 0o2000000;
const MOVE_MOUNT_F_EMPTY_PATH = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH = 0x40;
const MNT_DETACH = 2;
/** Commands of fsconfig(2). */
export const fsconfigCommand = { setFlag: 0, setString: 1, setFd: 5, create: 6 } as const;
const MS_REC = 16384;
const MS_PRIVATE = 1 << 18;

/** Attributes of a mount, for `createMount` and `setMountAttributes`; may be or-ed. */
export const mountAttribute = {
  readOnly: 0x1,
  noSuid: 0x2,
  noDev: 0x4,
  noExec: 0x8,
  noSymlinkFollow: 0x200000,
} as const;
const MOUNT_ATTR_IDMAP = 0x100000;
/** struct mount_attr */
export const mountAttrLayout = { size: 32, set: 0, propagation: 16, userNamespaceFd: 24 } as const;

export type MountOption =
  | { key: string }
  | { key: string; value: string }
  | { key: string; fd: number };

const inodesMin = 4096;
const bytesPerInode = 4096;

const fsopen = setupSyscall<[string, number]>(
  { name: 'fsopen', number: callNumber.fsopen, parameters: 'const char *type, unsigned int flags' },
  (type) => `"${type}"`,
);
const fsconfigString = setupSyscall<[number, number, string, string | null, number]>(
  {
    name: 'fsconfig',
    number: callNumber.fsconfig,
    parameters: 'int fd, unsigned int cmd, const char *key, const char *value, int aux',
  },
  (_fd, _command, key, value) => (value === null ? key : `${key}=${value}`),
);
const fsconfigCreate = setupSyscall<[number, number, null, null, number]>({
  name: 'fsconfig',
  number: callNumber.fsconfig,
  parameters: 'int fd, unsigned int cmd, const char *key, const char *value, int aux',
});
const fsmount = setupSyscall<[number, number, number]>({
  name: 'fsmount',
  number: callNumber.fsmount,
  parameters: 'int fd, unsigned int flags, unsigned int attributes',
});
const openTreeCall = setupSyscall<[number, string, number]>(
  {
    name: 'open_tree',
    number: callNumber.open_tree,
    parameters: 'int dirfd, const char *path, unsigned int flags',
  },
  (_fd, path) => `"${path}"`,
);
const moveMountCall = setupSyscall<[number, string, number, string, number]>(
  {
    name: 'move_mount',
    number: callNumber.move_mount,
    parameters:
      'int from_fd, const char *from_path, int to_fd, const char *to_path, unsigned int flags',
  },
  (_fromFd, _fromPath, _toFd, toPath) => `on "${toPath}"`,
);
const mountSetattrCall = setupSyscall<[number, string, number, Uint8Array, number]>(
  {
    name: 'mount_setattr',
    number: callNumber.mount_setattr,
    parameters: 'int fd, const char *path, unsigned int flags, const void *attr, size_t size',
  },
  (_fd, path) => (path === '' ? '' : `"${path}"`),
);
const mountCall = setupSyscall<[string, string, string | null, number, string | null]>(
  {
    name: 'mount',
    number: callNumber.mount,
    parameters:
      'const char *source, const char *target, const char *type, unsigned long flags, ' +
      'const char *data',
  },
  (_source, target) => `on "${target}"`,
);
const umount2 = setupSyscall<[string, number]>(
  { name: 'umount2', number: callNumber.umount2, parameters: 'const char *target, int flags' },
  (target) => `"${target}"`,
);
const pivotRootCall = setupSyscall<[string, string]>({
  name: 'pivot_root',
  number: callNumber.pivot_root,
  parameters: 'const char *new_root, const char *put_old',
});
const readRaw = trySyscall<[number, Uint8Array, number]>(
  'long read(int fd, _Out_ void *buffer, size_t size)',
);
const closeRaw = trySyscall<[number]>('int close(int fd)');

/**
 * Makes a file system and returns its mount as a detached descriptor, close-on-exec. The kernel's
 * own explanation (the fs context's log) is appended to the error when it gives one.
 */
export function createMount(options: {
  type: string;
  options: readonly MountOption[];
  attributes: number;
}): number {
  const context = fsopen(options.type, FSOPEN_CLOEXEC);
  try {
    for (const option of options.options) configure(context, option);
    fsconfigCreate(context, fsconfigCommand.create, null, null, 0);
    return fsmount(context, FSMOUNT_CLOEXEC, options.attributes);
  } catch (error) {
    const explanation = contextLog(context);
    if (error instanceof Error && explanation !== '') error.message += ` (${explanation})`;
    throw error;
  } finally {
    closeRaw(context);
  }
}

/** Whether a file system says that it knows an option; makes nothing. Needs root. */
export function knowsMountOption(type: string, option: MountOption): boolean {
  const context = fsopen(type, FSOPEN_CLOEXEC);
  try {
    configure(context, option);
  } catch {
    closeRaw(context);
    return false;
  }
  try {
    // Those of before Linux 6.5 take anything here, and refuse it only when they are made.
    configure(context, { key: 'hatch', value: '' });
    return false;
  } catch {
    return true;
  } finally {
    closeRaw(context);
  }
}

/** A detached copy of the mount at `path`, below it too when `recursive`. Close-on-exec. */
export function cloneMount(options: { path: string; recursive: boolean }): number {
  const flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (options.recursive ? AT_RECURSIVE : 0);
  return openTreeCall(AT_FDCWD, options.path, flags);
}

/** Sets attributes on a detached mount; with `userNamespaceFd` it becomes an idmapped mount. */
export function setMountAttributes(
  mountFd: number,
  options: { attributes: number; userNamespaceFd?: number; recursive?: boolean },
): void {
  const layout = mountAttrLayout;
  const attr = Buffer.alloc(layout.size);
  const idmap = options.userNamespaceFd === undefined ? 0 : MOUNT_ATTR_IDMAP;
  attr.writeBigUInt64LE(BigInt(options.attributes | idmap), layout.set);
  attr.writeBigUInt64LE(BigInt(MS_PRIVATE), layout.propagation);
  attr.writeBigUInt64LE(BigInt(options.userNamespaceFd ?? 0), layout.userNamespaceFd);
  const flags = AT_EMPTY_PATH | (options.recursive === true ? AT_RECURSIVE : 0);
  mountSetattrCall(mountFd, '', flags, attr, attr.length);
}

/** Attaches a detached mount at a path of our own making. */
export function attachMount(mountFd: number, path: string): void {
  moveMountCall(mountFd, '', AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
}

/** Attaches a detached mount on an open directory or file: no path can be bent on the way. */
export function attachMountOn(mountFd: number, targetFd: number): void {
  moveMountCall(mountFd, '', targetFd, '', MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/**
 * mount(2): attaches a new file system on `path`. `data` are its options, and may have commas in
 * place of values only if the file system lets them be escaped.
 */
export function mountWithData(options: {
  type: string;
  path: string;
  attributes: number;
  data: string;
}): void {
  const { type, path, attributes, data } = options;
  // The attributes up to noExec have the same numbers as the older MS_ flags.
  mountCall(type, path, type, attributes, data);
}

/** Cuts the propagation of the whole tree at `/` of this mount namespace. */
export function makeRootPrivate(): void {
  mountCall('none', '/', null, MS_REC | MS_PRIVATE, null);
}

/** Takes a mount out of the tree at once; it lives on while something in it is in use. */
export function detachMount(path: string): void {
  umount2(path, MNT_DETACH);
}

/** pivot_root(2) with both arguments ".": the old root ends up mounted over the new one. */
export function pivotRootHere(): void {
  pivotRootCall('.', '.');
}

/**
 * How many files go with a limit on bytes. An inode costs the kernel about 1 KiB that no limit
 * counts: so there is one for each 4 KiB, and some for a small one.
 */
export function inodesFor(sizeBytes: number): number {
  return Math.max(inodesMin, Math.ceil(sizeBytes / bytesPerInode));
}

/** Options of a tmpfs that limit what it takes. */
export function tmpfsSize(sizeBytes: number): MountOption[] {
  const inodes = inodesFor(sizeBytes);
  return [
    { key: 'size', value: String(sizeBytes) },
    { key: 'nr_inodes', value: String(inodes) },
  ];
}

function configure(context: number, option: MountOption): void {
  if ('fd' in option) fsconfigString(context, fsconfigCommand.setFd, option.key, null, option.fd);
  else if ('value' in option)
    fsconfigString(context, fsconfigCommand.setString, option.key, option.value, 0);
  else fsconfigString(context, fsconfigCommand.setFlag, option.key, null, 0);
}

function contextLog(context: number): string {
  const buffer = Buffer.alloc(1024);
  const messages: string[] = [];
  for (;;) {
    const size = readRaw(context, buffer, buffer.length);
    if (size <= 0) return messages.join('; ');
    messages.push(buffer.toString('utf8', 0, size).trim());
  }
}
