import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { DiskScratch } from '../../host/storage/disk-scratch.ts';
import { OverlayDriver } from '../../host/storage/overlay.ts';
import { treeOf, withLayers } from '../contract/storage-layers.ts';

const roots = 20;
const fileBytes = 8 << 20;

test('5.1 one copy of a layer on disk serves all roots; writes land in the upper only', () =>
  withLayers(async (layers) => {
    const lower = layers.make({
      'usr/lib/library.so': Buffer.alloc(fileBytes, 1),
      'etc/config': 'as shipped',
    });
    const before = snapshot(lower);
    // On disk, so that what N roots take there can be counted.
    const directory = layers.path('state');
    const driver = OverlayDriver.open(new DiskScratch({ directory, spareCount: 0 }));
    try {
      const made = Array.from({ length: roots }, (_, i) =>
        driver.createRoot({
          id: `r${i}`,
          lowerDirectories: [lower],
          ownerUid: 100_000 + i * 65_536,
          ownerGid: 100_000 + i * 65_536,
        }),
      );
      for (const root of made) {
        const library = fs.readFileSync(`/proc/self/fd/${root.mountFd}/usr/lib/library.so`);
        assert.equal(library.length, fileBytes);
      }
      assert.ok(blockBytes(directory) < fileBytes / 4, 'all roots take a fraction of one copy');

      for (const root of made) {
        fs.writeFileSync(`/proc/self/fd/${root.mountFd}/etc/config`, root.id);
        fs.writeFileSync(`/proc/self/fd/${root.mountFd}/made`, root.id);
      }
      for (const root of made) {
        assert.deepEqual(treeOf(root.upperDirectory), ['etc', 'etc/config', 'made']);
        assert.equal(fs.readFileSync(`${root.upperDirectory}/etc/config`, 'utf8'), root.id);
      }
      assert.deepEqual(snapshot(lower), before, 'the layer is as it was');
    } finally {
      await driver.close();
    }
  }));

/** All that identifies a tree's content: names, inodes, sizes, times, data. */
function snapshot(directory: string): unknown[] {
  return treeOf(directory).map((path) => {
    const stat = fs.statSync(`${directory}/${path}`, { bigint: true });
    const data = stat.isFile() ? fs.readFileSync(`${directory}/${path}`, 'base64') : undefined;
    return [path, stat.ino, stat.size, stat.mtimeNs, stat.ctimeNs, stat.uid, data];
  });
}

function blockBytes(directory: string): number {
  return treeOf(directory)
    .map((path) => fs.lstatSync(`${directory}/${path}`).blocks * 512)
    .reduce((sum, bytes) => sum + bytes, 0);
}
