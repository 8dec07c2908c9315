/** A container's /dev. */
import { changeModeAt, makeDirectoryAt, makeSymlinkAt } from './file.ts';
import { setupSyscall } from './libc.ts';
import { createMount, mountAttribute, setMountAttributes } from './mount.ts';
import { callNumber } from './numbers.ts';

const { readOnly, noSuid, noExec } = mountAttribute;
const S_IFCHR = 0o020000;

/** Name, major and minor number (<linux/major.h>): what programs expect of any container. */
const devices: readonly [name: string, major: number, minor: number][] = [
  ['null', 1, 3],
  ['zero', 1, 5],
  ['full', 1, 7],
  ['random', 1, 8],
  ['urandom', 1, 9],
  ['tty', 5, 0],
];
const links: readonly [name: string, target: string][] = [
  ['fd', '/proc/self/fd'],
  ['stdin', '/proc/self/fd/0'],
  ['stdout', '/proc/self/fd/1'],
  ['stderr', '/proc/self/fd/2'],
];

const mknodat = setupSyscall<[number, string, number, number]>(
  {
    name: 'mknodat',
    number: callNumber.mknodat,
    parameters: 'int dirfd, const char *path, unsigned int mode, unsigned int device',
  },
  (_fd, path) => `"${path}"`,
);

/**
 * A read-only mount, yet to be attached, with nodes that nobody else has: who shares an inode with
 * others can lock it, and sees by inotify(7) when they open it.
 */
export function makeDeviceMount(): number {
  const options = [
    { key: 'size', value: '64k' },
    { key: 'mode', value: '755' },
  ];
  const mountFd = createMount({ type: 'tmpfs', options, attributes: noSuid | noExec });
  for (const [name, major, minor] of devices) {
    mknodat(mountFd, name, S_IFCHR, (major << 8) | minor);
    // Whatever the umask is.
    changeModeAt(mountFd, name, 0o666);
  }
  for (const [name, target] of links) makeSymlinkAt(mountFd, name, target);
  // A mount point for each container's own shared memory.
  makeDirectoryAt(mountFd, 'shm', 0o755);
  setMountAttributes(mountFd, { attributes: readOnly });
  return mountFd;
}
