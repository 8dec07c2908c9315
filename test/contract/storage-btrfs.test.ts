/** The contract on btrfs, in an image of its own. */
import { after } from 'node:test';
import { openBtrfs } from '../../host/storage/btrfs.ts';
import { makeRootPrivate } from '../../host/sys/mount.ts';
import { namespaceFlag, unshare } from '../../host/sys/namespace.ts';
import { DiskImage } from '../support/disk-image.ts';
import { storageSuite } from './storage.ts';

unshare(namespaceFlag.mount);
makeRootPrivate();
const disk = new DiskImage('btrfs');
after(() => disk[Symbol.dispose]());

storageSuite('btrfs', (directory) => openBtrfs({ directory, sizeBytes: 64 << 20, spareCount: 1 }), {
  layersMax: 128,
  limitsSize: true,
  place: disk.mountPoint,
  keeps: ['roots', 'stacks'],
});
