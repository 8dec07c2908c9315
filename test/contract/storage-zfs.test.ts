/** The contract on zfs, in a pool of its own, which the kernel of `npm run test:vm` has. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { after, test } from 'node:test';
import { isErrno } from '../../host/sys/errors.ts';
import { makeRootPrivate } from '../../host/sys/mount.ts';
import { namespaceFlag, unshare } from '../../host/sys/namespace.ts';
import { openZfs } from '../../host/storage/zfs.ts';
import { DiskImage } from '../support/disk-image.ts';
import { hasZfs } from '../support/zfs.ts';
import { storageSuite } from './storage.ts';
import { withLayers } from './storage-layers.ts';

unshare(namespaceFlag.mount);
makeRootPrivate();
const sizeBytes = 64 << 20;

if (hasZfs) testOnZfs(new DiskImage('zfs'));
else
  test('off zfs the driver zfs is refused, by name', () =>
    withLayers((layers) => {
      const message = /^Cannot use the storage driver zfs: ".*" is not on zfs$/;
      const options = { directory: layers.path('state'), sizeBytes };
      return assert.rejects(openZfs(options), { code: 'host.unsupported', message });
    }));

function testOnZfs(disk: DiskImage): void {
  after(() => disk[Symbol.dispose]());

  storageSuite('zfs', (directory) => openZfs({ directory, sizeBytes, spareCount: 1 }), {
    layersMax: 128,
    limitsSize: true,
    place: disk.mountPoint,
    keeps: [],
  });

  test('nothing is left in the pool', () => {
    assert.deepEqual(disk.datasets(), []);
  });

  test('what a killed run has left is removed by the next: roots, stacks and their copies', () =>
    withLayers(async (layers) => {
      const directory = layers.path('state');
      const lowerDirectories = [layers.make({ a: '' }), layers.make({ b: '' })];
      const killed = await openZfs({ directory, sizeBytes });
      await killed.prepare(lowerDirectories);
      const owner = { ownerUid: 0, ownerGid: 0 };
      const root = killed.createRoot({ id: 'a', lowerDirectories, ...owner });
      const left = disk.datasets();
      assert.equal(left.length, 1 + 2 + 1, left.join(' '));
      const next = await openZfs({ directory, sizeBytes });
      // Mounted by a process that lives on, it stays; and so do its layers.
      await assert.rejects(next.removeAll(), { code: 'EBUSY' });
      assert.equal(disk.datasets().length, 4);
      // Its file system cannot be destroyed a second time, nor need it be.
      const destroyed = root.destroy().catch((error: unknown) => error);
      await next.removeAll();
      assert.ok(isErrno(await destroyed, 'ENOENT'));
      assert.equal(disk.datasets().length, 1);
      await next.prepare(lowerDirectories);
      next.createRoot({ id: 'a', lowerDirectories, ...owner });
      await next.close();
      assert.deepEqual(disk.datasets(), []);
    }, disk.mountPoint));

  test('no root has a way to snapshots in it', () =>
    withLayers(async (layers) => {
      const driver = await openZfs({ directory: layers.path('state'), sizeBytes });
      try {
        const lowerDirectories = [layers.make({ file: '' })];
        await driver.prepare(lowerDirectories);
        const owner = { ownerUid: 0, ownerGid: 0 };
        const root = driver.createRoot({ id: 'a', lowerDirectories, ...owner });
        for (const directory of [`/proc/self/fd/${root.mountFd}`, root.upperDirectory])
          assert.throws(() => readdirSync(`${directory}/.zfs`), { code: 'ENOENT' });
      } finally {
        await driver.close();
      }
    }, disk.mountPoint));
}
