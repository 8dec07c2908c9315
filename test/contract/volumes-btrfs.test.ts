/** The contract of volumes on btrfs, in an image of its own. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Volumes } from '../../host/storage/volumes.ts';
import { makeRootPrivate } from '../../host/sys/mount.ts';
import { namespaceFlag, unshare } from '../../host/sys/namespace.ts';
import { DiskImage } from '../support/disk-image.ts';
import { volumeSuite } from './volumes.ts';

unshare(namespaceFlag.mount);
makeRootPrivate();
const disk = new DiskImage('btrfs');
after(() => disk[Symbol.dispose]());

volumeSuite('btrfs', () => disk.mountPoint);

test('where nothing has checksums there are none, and the error says what to do', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'hatch-volumes-'));
  try {
    const volumes = Volumes.open(directory);
    assert.deepEqual(volumes.list(), []);
    const volume = { tenant: 'default', functionName: 'fn', name: 'data' };
    await assert.rejects(volumes.hold([volume]), {
      code: 'host.unsupported',
      message: /volumes of "fn": the state directory ".*" is on no file system with checksums/,
    });
  } finally {
    rmSync(directory, { recursive: true });
  }
});
