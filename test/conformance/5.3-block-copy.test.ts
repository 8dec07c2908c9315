import assert from 'node:assert/strict';
import fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openBtrfs } from '../../host/storage/btrfs.ts';
import { DiskScratch } from '../../host/storage/disk-scratch.ts';
import { OverlayDriver } from '../../host/storage/overlay.ts';
import type { StorageDriver } from '../../host/storage/storage-driver.ts';
import { openZfs } from '../../host/storage/zfs.ts';
import { DiskImage, type DiskType } from '../support/disk-image.ts';
import { hasZfs } from '../support/zfs.ts';

const fileBytes = 128 << 20;
const writeBytes = 4096;
/** A block, and what file systems note about it. */
const blockBytesMax = 256 << 10;

const onDisk = (directory: string): StorageDriver =>
  OverlayDriver.open(new DiskScratch({ directory, spareCount: 0 }));
type Open = (directory: string) => StorageDriver | Promise<StorageDriver>;
const zfs: [string, DiskType, Open, boolean] = [
  'zfs',
  'zfs',
  (directory) => openZfs({ directory, sizeBytes: fileBytes }),
  false,
];
const drivers: [string, DiskType, Open, copiesFile: boolean][] = [
  ['overlay on ext4', 'ext4', onDisk, true],
  ['overlay on xfs with reflinks', 'xfs', onDisk, false],
  ['overlay on btrfs', 'btrfs', onDisk, false],
  ['btrfs', 'btrfs', (directory) => openBtrfs({ directory, sizeBytes: fileBytes }), false],
  ...(hasZfs ? [zfs] : []),
];

for (const [name, type, open, copiesFile] of drivers)
  test(`5.3 4 KiB in 128 MiB take ${copiesFile ? 'the file' : 'a block'}: ${name}`, async () => {
    using disk = new DiskImage(type);
    const layer = join(disk.mountPoint, 'layer');
    fs.mkdirSync(layer);
    fs.writeFileSync(join(layer, 'file'), Buffer.alloc(fileBytes, 7));
    const driver = await open(join(disk.mountPoint, 'state'));
    try {
      const lowerDirectories = [layer];
      await driver.prepare(lowerDirectories);
      const root = driver.createRoot({ id: 'a', lowerDirectories, ownerUid: 0, ownerGid: 0 });
      const before = disk.usedBytes();
      const fd = fs.openSync(`/proc/self/fd/${root.mountFd}/file`, 'r+');
      fs.writeSync(fd, Buffer.alloc(writeBytes, 8), 0, writeBytes, 0);
      fs.closeSync(fd);
      const taken = disk.usedBytes() - before;
      if (copiesFile) assert.ok(taken >= fileBytes, `${taken} bytes`);
      else assert.ok(taken >= writeBytes && taken <= blockBytesMax, `${taken} bytes`);
      assert.equal(fs.readFileSync(join(layer, 'file'))[0], 7);
    } finally {
      await driver.close();
    }
  });
