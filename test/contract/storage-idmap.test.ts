/**
 * Layers of an unprivileged container. For overlays one idmapped mount of the layers' parent,
 * attached in a mount namespace of this thread's own, shifts the owners of all files below it; a
 * snapshot is shifted as a whole.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { openBtrfs } from '../../host/storage/btrfs.ts';
import { findCopyUps } from '../../host/storage/copy-up.ts';
import { DiskScratch } from '../../host/storage/disk-scratch.ts';
import { MemoryScratch } from '../../host/storage/memory-scratch.ts';
import { OverlayDriver } from '../../host/storage/overlay.ts';
import type { StorageDriver } from '../../host/storage/storage-driver.ts';
import { openZfs } from '../../host/storage/zfs.ts';
import {
  attachMount,
  cloneMount,
  detachMount,
  makeRootPrivate,
  setMountAttributes,
} from '../../host/sys/mount.ts';
import { namespaceFlag, unshare } from '../../host/sys/namespace.ts';
import { DiskImage } from '../support/disk-image.ts';
import { hasZfs } from '../support/zfs.ts';
import { withLayers } from './storage-layers.ts';

const base = 300_000;
let userNamespaceFd = -1;
unshare(namespaceFlag.mount);
makeRootPrivate();
const disks = { btrfs: new DiskImage('btrfs'), ...(hasZfs && { zfs: new DiskImage('zfs') }) };

before(async () => {
  userNamespaceFd = await openUserNamespace();
});
after(() => {
  fs.closeSync(userNamespaceFd);
  for (const disk of Object.values(disks)) disk[Symbol.dispose]();
});

type Open = (directory: string) => StorageDriver | Promise<StorageDriver>;
const drivers: [string, Open, disk?: DiskImage][] = [
  [
    'overlay in memory',
    (mountPoints) => OverlayDriver.open(new MemoryScratch({ sizeBytes: 64 << 20, mountPoints })),
  ],
  [
    'overlay on disk',
    (directory) => OverlayDriver.open(new DiskScratch({ directory, spareCount: 0 })),
  ],
  ['btrfs', (directory) => openBtrfs({ directory, sizeBytes: 64 << 20 })],
  ...(disks.zfs === undefined ? [] : zfsDrivers(disks.zfs)),
];

for (const [name, open, disk = disks.btrfs] of drivers)
  test(`layers belong to the container's ids, and what it writes: ${name}`, () =>
    withLayers(async (layers) => {
      const bottom = layers.make({ file: Buffer.alloc(5000, 1), 'dir/x': 'x' });
      const top = layers.make({ 'dir/y': 'y' });
      fs.chownSync(`${top}/dir/y`, 1000, 1001);
      const parent = fs.mkdtempSync(`${layers.path('idmapped')}-`);
      attachIdmapped(layers.path('.'), parent);
      const driver = await open(layers.path('state'));
      try {
        const lowerDirectories = [bottom, top].map((layer) =>
          driver.mapsOwners ? layer : join(parent, basename(layer)),
        );
        await driver.prepare(lowerDirectories);
        const root = driver.createRoot({
          id: 'a',
          lowerDirectories,
          ownerUid: base,
          ownerGid: base,
          userNamespaceFd,
        });
        const at = (path: string) => `/proc/self/fd/${root.mountFd}/${path}`;
        const owners = (path: string) => {
          const { uid, gid } = fs.statSync(path);
          return [uid, gid];
        };
        assert.deepEqual(owners(at('.')), [base, base]);
        assert.deepEqual(owners(at('file')), [base, base]);
        assert.deepEqual(owners(at('dir/y')), [base + 1000, base + 1001]);

        // As the container's root, in no user namespace: the bare ids decide.
        const write = spawnSync('sh', ['-c', 'echo more >> file && echo new > dir/new && id -u'], {
          cwd: at('.'),
          uid: base,
          gid: base,
          encoding: 'utf8',
        });
        assert.equal(write.stdout, `${base}\n`, write.stderr);
        assert.deepEqual(owners(at('file')), [base, base]);
        assert.deepEqual(owners(at('dir/new')), [base, base]);
        const stored = driver.mapsOwners ? 0 : base;
        assert.deepEqual(owners(`${root.upperDirectory}/file`), [stored, stored]);
        assert.deepEqual(owners(`${root.upperDirectory}/dir/new`), [stored, stored]);
        assert.deepEqual(owners(`${bottom}/file`), [0, 0]);
        if (!root.copiesUp) return;
        const [copyUp, ...others] = await findCopyUps(root);
        assert.deepEqual(others, []);
        assert.equal(copyUp?.bytesCopied, 5000);
        // Its owner is the shifted one on both sides: it was not changed.
        assert.deepEqual(copyUp.attributesChanged, ['times']);
      } finally {
        await driver.close();
        detachMount(parent);
      }
    }, disk.mountPoint));

function zfsDrivers(disk: DiskImage): [string, Open, DiskImage][] {
  return [
    [
      'overlay in memory on layers on zfs',
      (mountPoints) => OverlayDriver.open(new MemoryScratch({ sizeBytes: 64 << 20, mountPoints })),
      disk,
    ],
    ['zfs', (directory) => openZfs({ directory, sizeBytes: 64 << 20 }), disk],
  ];
}

function attachIdmapped(source: string, target: string): void {
  const fd = cloneMount({ path: source, recursive: false });
  try {
    setMountAttributes(fd, { attributes: 0, userNamespaceFd });
    attachMount(fd, target);
  } finally {
    fs.closeSync(fd);
  }
}

async function openUserNamespace(): Promise<number> {
  const holder = spawn('unshare', ['--user', 'sh', '-c', 'echo ready; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(holder.stdout, 'data');
  try {
    for (const map of ['uid_map', 'gid_map'])
      fs.writeFileSync(`/proc/${holder.pid}/${map}`, `0 ${base} 65536`);
    return fs.openSync(`/proc/${holder.pid}/ns/user`, 'r');
  } finally {
    holder.kill('SIGKILL');
    await once(holder, 'exit');
  }
}
