/**
 * The storage bench's helper: writes with one driver after another, on file systems in images that
 * it mounts. It has a mount namespace of its own from its first thread on.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openBtrfs } from '../../host/storage/btrfs.ts';
import { DiskScratch } from '../../host/storage/disk-scratch.ts';
import { MemoryScratch } from '../../host/storage/memory-scratch.ts';
import { OverlayDriver } from '../../host/storage/overlay.ts';
import type { StorageDriver, WritableRoot } from '../../host/storage/storage-driver.ts';
import { openZfs } from '../../host/storage/zfs.ts';
import { DiskImage, type DiskType } from '../support/disk-image.ts';
import { rowOf, type Row } from './report.ts';
import { serve } from './worker.ts';

const MiB = 2 ** 20;
const diskMiB = 6144;
const writeBytes = 4096;
/** xfs gives the blocks of a deleted file back some milliseconds later. */
const lookMs = 30;
const looksMax = 100;

interface Contender {
  name: string;
  disk: DiskType;
  open: (directory: string) => StorageDriver | Promise<StorageDriver>;
}

const overlayOn = (disk: DiskType): Contender => ({
  name: `overlay/${disk}`,
  disk,
  open: (directory) => OverlayDriver.open(new DiskScratch({ directory, spareCount: 0 })),
});
const zfs: Contender = {
  name: 'zfs',
  disk: 'zfs',
  open: (directory) => openZfs({ directory, sizeBytes: 2e9 }),
};
const contenders: Contender[] = [
  {
    name: 'overlay/memory',
    disk: 'ext4',
    open: (mountPoints) => OverlayDriver.open(new MemoryScratch({ sizeBytes: 2e9, mountPoints })),
  },
  overlayOn('ext4'),
  overlayOn('xfs'),
  overlayOn('btrfs'),
  {
    name: 'btrfs',
    disk: 'btrfs',
    open: (directory) => openBtrfs({ directory, sizeBytes: 2e9 }),
  },
  ...(fs.existsSync('/dev/zfs') ? [zfs] : []),
];

const handlers = {
  names: async (): Promise<string[]> => contenders.map(({ name }) => name),
  async measure({ name, quick }: { name: string; quick: boolean }): Promise<Row[]> {
    const contender = contenders.find((one) => one.name === name);
    if (contender === undefined) throw new Error(`There is no "${name}"`);
    return await measure(contender, quick);
  },
};
export type StorageHandlers = typeof handlers;

serve(handlers, async () => undefined);

async function measure({ name, disk: type, open }: Contender, quick: boolean): Promise<Row[]> {
  using disk = new DiskImage(type, { sizeMiB: diskMiB });
  const layer = join(disk.mountPoint, 'layer');
  fs.mkdirSync(layer);
  const sizes = quick ? [8, 128] : [8, 128, 1024];
  for (const size of sizes) makeFile(join(layer, String(size)), size);
  const driver = await open(join(disk.mountPoint, 'state'));
  try {
    const lowerDirectories = [layer];
    await driver.prepare(lowerDirectories);
    const owner = { ownerUid: 0, ownerGid: 0 };
    const make = (id: string) => driver.createRoot({ id, lowerDirectories, ...owner });
    const rows: Row[] = [];
    for (const size of sizes) rows.push(...(await writes({ name, size, quick, make, disk })));
    rows.push(...(await lives({ name, quick, make, disk })));
    return rows;
  } finally {
    await driver.close();
  }
}

/** The first write of each of some roots: how long it took, and how much less is free then. */
async function writes(options: {
  name: string;
  size: number;
  quick: boolean;
  make: (id: string) => WritableRoot;
  disk: DiskImage;
}): Promise<Row[]> {
  const { name, size, quick, make, disk } = options;
  // What overlays write to memory is not on the disk.
  const used = (root: WritableRoot) =>
    atRest(disk.type === 'zfs' ? disk : { usedBytes: () => usedBytes(root.upperDirectory) });
  const times: number[] = [];
  const taken: number[] = [];
  for (let round = 0; round < (quick ? 2 : 5); round++) {
    const root = make(`write-${round}`);
    const before = await used(root);
    const start = performance.now();
    const fd = fs.openSync(`/proc/self/fd/${root.mountFd}/${size}`, 'r+');
    fs.writeSync(fd, Buffer.alloc(writeBytes, round), 0, writeBytes, 0);
    times.push(performance.now() - start);
    fs.closeSync(fd);
    taken.push(((await used(root)) - before) / 1024);
    await root.destroy();
  }
  return [
    rowOf(`${name} ${size} MiB`, 'ms', times),
    rowOf(`${name} ${size} MiB taken`, 'KiB', taken),
  ];
}

/** Roots that write nothing: making, ending, and what many of them take together. */
async function lives(options: {
  name: string;
  quick: boolean;
  make: (id: string) => WritableRoot;
  disk: DiskImage;
}): Promise<Row[]> {
  const { name, quick, make, disk } = options;
  const count = quick ? 20 : 200;
  const starts: number[] = [];
  const ends: number[] = [];
  const roots: WritableRoot[] = [];
  const before = await atRest(disk);
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    roots.push(make(`life-${i}`));
    starts.push(performance.now() - start);
  }
  const each = ((await atRest(disk)) - before) / 1024 / count;
  for (const root of roots) {
    const start = performance.now();
    await root.destroy();
    ends.push(performance.now() - start);
  }
  return [
    rowOf(`${name} start`, 'ms', starts),
    rowOf(`${name} teardown`, 'ms', ends),
    rowOf(`${name} on disk per root`, 'KiB', [each]),
  ];
}

/** Without what is being given back. */
async function atRest(of: { usedBytes: () => number }): Promise<number> {
  let usedBefore: number | undefined;
  for (let look = 0; look < looksMax; look++) {
    const used = of.usedBytes();
    if (used === usedBefore) return used;
    usedBefore = used;
    await sleep(lookMs);
  }
  throw new Error('What is used of the file system does not come to rest');
}

/** Of the file system of a path of this process, with all that was written so far. */
function usedBytes(path: string): number {
  // The command has descriptors of its own.
  execFileSync('sync', ['--file-system', path.replace('/self/', `/${process.pid}/`)]);
  const { blocks, bfree, bsize } = fs.statfsSync(path);
  return (blocks - bfree) * bsize;
}

function makeFile(path: string, sizeMiB: number): void {
  const piece = Buffer.alloc(MiB, 7);
  const fd = fs.openSync(path, 'w');
  for (let i = 0; i < sizeMiB; i++) fs.writeSync(fd, piece);
  fs.fsyncSync(fd);
  fs.closeSync(fd);
}
