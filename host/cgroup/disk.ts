import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { btrfsId, isOnBtrfs } from '../sys/btrfs.ts';

/**
 * The disk that holds a directory, as "major:minor"; the kernel limits whole disks, not partitions.
 * A loop device or a mapped one is a disk of its own. Undefined where none is below the directory,
 * as on a tmpfs or a network file system, or several are.
 */
export function diskOf(directory: string, sysDirectory = '/sys'): string | undefined {
  const device = deviceName(statSync(directory).dev);
  const path = join(sysDirectory, 'dev/block', device);
  if (existsSync(path)) return wholeDisk(path);
  if (!isOnBtrfs(directory)) return undefined;
  return diskOfBtrfs(join(sysDirectory, 'fs/btrfs', btrfsId(directory)));
}

/** A btrfs gives each subvolume a device number that no device has: sysfs tells what it is on. */
export function diskOfBtrfs(fileSystemPath: string): string | undefined {
  const devices = join(fileSystemPath, 'devices');
  if (!existsSync(devices)) return undefined;
  const disks = new Set(readdirSync(devices).map((name) => wholeDisk(join(devices, name))));
  const [disk] = disks;
  return disks.size === 1 ? disk : undefined;
}

/** `path` is a device's directory in sysfs, or a link to it. */
function wholeDisk(path: string): string {
  const isPartition = existsSync(join(path, 'partition'));
  return readFileSync(join(realpathSync(path), isPartition ? '../dev' : 'dev'), 'latin1').trim();
}

/** As makedev(3) packs it; more than 32 bits are for major numbers that no kernel gives out. */
function deviceName(device: number): string {
  const major = (device >>> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00);
  return `${major}:${minor}`;
}
