import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';

/**
 * The disk that holds a directory, as "major:minor"; the kernel limits whole disks, not partitions.
 * Undefined where none is below it: on a tmpfs, a network file system, or one of several disks.
 */
export function diskOf(directory: string, sysDirectory = '/sys'): string | undefined {
  const device = deviceName(statSync(directory).dev);
  const path = join(sysDirectory, 'dev/block', device);
  if (!existsSync(path)) return undefined;
  if (!existsSync(join(path, 'partition'))) return device;
  return readFileSync(join(realpathSync(path), '../dev'), 'latin1').trim();
}

/** As makedev(3) packs it; more than 32 bits are for major numbers that no kernel gives out. */
function deviceName(device: number): string {
  const major = (device >>> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00);
  return `${major}:${minor}`;
}
