import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { CopyUpTracker } from '../../host/storage/copy-up.ts';
import { DiskScratch } from '../../host/storage/disk-scratch.ts';
import { MemoryScratch } from '../../host/storage/memory-scratch.ts';
import { OverlayDriver } from '../../host/storage/overlay.ts';
import type { ScratchSpace } from '../../host/storage/scratch.ts';
import { withLayers } from '../contract/storage-layers.ts';

const fileBytes = 8 << 20;
const writeBytes = 4 << 10;

const scratchSpaces: [string, (directory: string) => ScratchSpace][] = [
  ['in memory', (mountPoints) => new MemoryScratch({ sizeBytes: 64 << 20, mountPoints })],
  ['on disk', (directory) => new DiskScratch({ directory, spareCount: 0 })],
];

for (const [where, scratchIn] of scratchSpaces)
  test(`5.2 the first 4 KiB written to an 8 MiB file copy it all up ${where}, the next none`, () =>
    withLayers(async (layers) => {
      const lower = layers.make({ 'srv/ledger.db': Buffer.alloc(fileBytes, 7) });
      const driver = OverlayDriver.open(scratchIn(layers.path('state')));
      try {
        const root = driver.createRoot({
          id: 'a',
          lowerDirectories: [lower],
          ownerUid: 0,
          ownerGid: 0,
        });
        const file = `/proc/self/fd/${root.mountFd}/srv/ledger.db`;
        const allocated = () =>
          (fs.statSync(`${root.upperDirectory}/srv/ledger.db`, { throwIfNoEntry: false })?.blocks ??
            0) * 512;
        const tracker = new CopyUpTracker(root);
        assert.deepEqual(await tracker.look(), []);
        assert.equal(allocated(), 0);

        overwrite(file, 1);
        const [copyUp, ...others] = await tracker.look();
        assert.deepEqual(copyUp, {
          path: '/srv/ledger.db',
          bytesCopied: fileBytes,
          bytesChanged: writeBytes,
          attributesChanged: ['times'],
        });
        assert.deepEqual(others, []);
        assert.equal(copyUp.bytesCopied / writeBytes, 2048);
        // What the trace says is what the kernel did.
        assert.ok(allocated() >= fileBytes, `${allocated()} bytes in the upper`);

        const allocatedOnce = allocated();
        overwrite(file, 2);
        assert.deepEqual(await tracker.look(), []);
        assert.equal(allocated(), allocatedOnce);
        assert.equal(fs.readFileSync(`${lower}/srv/ledger.db`)[0], 7);
        assert.equal(fs.readFileSync(file)[0], 2);
      } finally {
        await driver.close();
      }
    }));

function overwrite(path: string, value: number): void {
  const fd = fs.openSync(path, 'r+');
  try {
    fs.writeSync(fd, Buffer.alloc(writeBytes, value), 0, writeBytes, 0);
  } finally {
    fs.closeSync(fd);
  }
}
