/** The file systems of a VM that is cut off, and where on them its files are. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { openBtrfs } from '../../host/storage/btrfs.ts';
import { DiskScratch } from '../../host/storage/disk-scratch.ts';
import { OverlayDriver } from '../../host/storage/overlay.ts';
import type { StorageDriver } from '../../host/storage/storage-driver.ts';

export type OpenDriver = (directory: string) => StorageDriver;

export interface FileSystem {
  make: (device: string) => string[];
  mount: (device: string, path: string) => string[];
  /** Also forgets the device: copies of it follow. */
  unmount: (path: string) => string[][];
  /** Roots that are written through, besides the file system itself. */
  roots: Record<string, OpenDriver>;
}

/** One of the directories that are written to. */
export interface Place {
  /** As in the table. */
  name: string;
  /** Where its files are on the file system, without a root's mount. */
  directory: string;
}

export const fileBytes = 256 * 1024;
/** On each file system: its places, as JSON. */
export const placesFile = 'places.json';

const overlay: OpenDriver = (directory) =>
  OverlayDriver.open(new DiskScratch({ directory, spareCount: 0 }));
const snapshots: OpenDriver = (directory) =>
  openBtrfs({ directory, sizeBytes: 128 * 2 ** 20, spareCount: 0 });

// What was not asked for is written every second, not every half minute: there are more cuts then
// that it matters for.
const fileSystems: Record<string, FileSystem> = {
  ext4: {
    make: (device) => ['mkfs.ext4', '-q', '-F', device],
    mount: (device, path) => ['mount', '-t', 'ext4', '-o', 'commit=1', device, path],
    unmount: (path) => [['umount', path]],
    roots: { 'overlay root': overlay },
  },
  btrfs: {
    make: (device) => ['mkfs.btrfs', '--quiet', '--force', device],
    mount: (device, path) => ['mount', '-t', 'btrfs', '-o', 'commit=1', device, path],
    unmount: (path) => [
      ['umount', path],
      ['btrfs', 'device', 'scan', '--forget'],
    ],
    roots: { 'overlay root': overlay, snapshot: snapshots },
  },
};

/** Of an argument `TYPE=DEVICE`. */
export function diskOf(argument: string) {
  const [type = '', device = ''] = argument.split('=');
  const fileSystem = fileSystems[type];
  assert.ok(fileSystem, `there is no file system "${type}"`);
  const path = join('/run/hatch-crash', type);
  mkdirSync(path, { recursive: true });
  return { type, device, path, fileSystem };
}

export function run([command = '', ...args]: string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
}
