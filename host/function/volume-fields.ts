/** The field `volumes` of `function.json`: directories that outlive the instances. */
import { z } from 'zod';
import type { StorageName } from '../storage/storage-driver.ts';
import type { ManifestProblem } from './manifest.ts';

type VolumeField = z.output<typeof volumeSchema>;

export const volumeNamePattern = /^[a-z0-9][a-z0-9-]{0,62}$/;

/** Of the runtime and the kernel, and of the system, where AppArmor's profile lets nobody write. */
const reservedDirectories = new Set(
  (
    'bin boot dev etc function hatch lib lib32 lib64 libx32 media mnt opt proc root run sbin srv ' +
    'sys tmp usr var'
  ).split(' '),
);
const volumesMax = 8;

const volumeSchema = z.strictObject({
  name: z
    .string()
    .regex(volumeNamePattern, 'must be 1 to 63 of a-z, 0-9 and -, not starting with -')
    .describe('Of this function: all its versions and instances on a host share it'),
  path: z
    .string()
    .max(255)
    .regex(/^(?:\/(?!\.{1,2}(?:\/|$))[A-Za-z0-9._-]+)+$/, 'must be an absolute path like /data')
    .describe('Where instances find it, such as /data; not in a directory of the system'),
  sizeMb: z.int().min(16).max(65_536).describe('What it may take on the disk in MiB'),
});

export const volumesField = z
  .array(volumeSchema)
  .max(volumesMax)
  .default([])
  .describe('Directories that outlive instances and hosts; need a host on btrfs');

interface Beside {
  volumes: readonly VolumeField[];
  storage?: StorageName | undefined;
}

/**
 * A root on the volumes' own file system would let files be cloned into them, whose bytes count for
 * the root, not for the volume: it could grow without end.
 */
export function storageBeside({ volumes, storage }: Beside): { storage?: StorageName | undefined } {
  return volumes.length > 0 && storage === undefined ? { storage: 'overlay' } : {};
}

/** What no field says by itself. */
export function volumeProblems({ volumes, storage }: Beside): ManifestProblem[] {
  const isCloned = volumes.length > 0 && storage !== 'overlay';
  const message = 'must be overlay for a function with volumes';
  return [...(isCloned ? [{ path: 'storage', message }] : []), ...fieldProblems(volumes)];
}

function fieldProblems(volumes: readonly VolumeField[]): ManifestProblem[] {
  return volumes.flatMap(({ name, path }, index) => {
    const before = volumes.slice(0, index);
    const found: ManifestProblem[] = [];
    const refuse = (field: string, message: string): void =>
      void found.push({ path: `volumes[${index}].${field}`, message });
    if (before.some((one) => one.name === name)) refuse('name', 'is named twice');
    const [, top = ''] = path.split('/');
    if (reservedDirectories.has(top)) refuse('path', `must not be in /${top}, which is not free`);
    if (isWithin(path, '/home/function') || isWithin('/home/function', path))
      refuse('path', 'must not be in or above /home/function, which is not free');
    const other = before.find((one) => isWithin(path, one.path) || isWithin(one.path, path));
    if (other !== undefined) refuse('path', `lies in or above that of "${other.name}"`);
    return found;
  });
}

function isWithin(path: string, directory: string): boolean {
  return path === directory || path.startsWith(`${directory}/`);
}
