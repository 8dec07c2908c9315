/**
 * The contract on file systems with project quotas, which the kernel of `npm run test:vm` has. On a
 * file system without them a limit is refused: that is the same promise.
 */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { DiskScratch } from '../../host/storage/disk-scratch.ts';
import { OverlayDriver } from '../../host/storage/overlay.ts';
import { makeRootPrivate } from '../../host/sys/mount.ts';
import { namespaceFlag, unshare } from '../../host/sys/namespace.ts';
import { DiskImage } from '../support/disk-image.ts';
import { isFull, storageSuite } from './storage.ts';

unshare(namespaceFlag.mount);
makeRootPrivate();
const hasQuotas = process.env['HATCH_TEST_VM'] !== undefined;
const disks = {
  ext4: new DiskImage(hasQuotas ? 'ext4-prjquota' : 'ext4'),
  xfs: new DiskImage(hasQuotas ? 'xfs-prjquota' : 'xfs'),
};
after(() => {
  for (const disk of Object.values(disks)) disk[Symbol.dispose]();
});

for (const [name, disk] of Object.entries(disks)) {
  const open = (directory: string, sizeBytes?: number) =>
    OverlayDriver.open(
      new DiskScratch({ directory, spareCount: 1, ...(sizeBytes && { sizeBytes }) }),
    );
  const quotas = hasQuotas ? 'with' : 'without';
  storageSuite(`overlay on ${name} ${quotas} project quotas`, (directory) => open(directory), {
    layersMax: 128,
    limitsSize: hasQuotas,
    place: disk.mountPoint,
  });

  test(`on ${name} a root may have as many files as bytes, and gives both back`, async () => {
    const place = fs.mkdtempSync(join(disk.mountPoint, 'files-'));
    const lower = join(place, 'lower');
    fs.mkdirSync(lower);
    const state = join(place, 'state');
    if (!hasQuotas) {
      const message = /mount its file system, ext4 or xfs, with the option prjquota/;
      assert.throws(() => open(state, 1 << 20), message);
      return;
    }
    const driver = open(state, 1 << 20);
    const request = { lowerDirectories: [lower], ownerUid: 0, ownerGid: 0 };
    try {
      for (const id of ['a', 'b']) {
        const root = driver.createRoot({ id, ...request });
        const directory = `/proc/self/fd/${root.mountFd}`;
        let files = 0;
        const makeMany = (): void => {
          for (; files < 10_000; files++)
            fs.closeSync(fs.openSync(join(directory, `${files}`), 'w'));
        };
        assert.throws(makeMany, isFull);
        // The directories of the pair count, too.
        assert.ok(files > 4000 && files < 4096, `${files} files`);
        await root.destroy();
      }
    } finally {
      await driver.close();
    }
  });
}
