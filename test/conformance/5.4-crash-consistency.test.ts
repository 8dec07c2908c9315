/** What a flipped bit and a cut in the middle of writing leave, by file system below the roots. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isErrno } from '../../host/sys/errors.ts';
import { DiskImage } from '../support/disk-image.ts';
import { hasZfs } from '../support/zfs.ts';

const checksummed = { ext4: false, btrfs: true, zfs: true } as const;
const types = ['ext4', 'btrfs', ...(hasZfs ? (['zfs'] as const) : [])] as const;
const blockBytes = 4096;
const fileBytes = 256 * 1024;
/** What is torn of it is told, not judged: a cut may or may not hit it on its way. */
const inPlaceBytes = 32 * 1024 * 1024;
const cuts = 12;

for (const type of types)
  test(`5.4 a flipped bit below ${type} is ${checksummed[type] ? 'an error' : 'not seen'}`, () => {
    using disk = new DiskImage(type, { sizeMiB: 512 });
    const path = join(disk.mountPoint, 'file');
    const content = Buffer.alloc(fileBytes, 'Hatchery flips a bit of this. ');
    fs.writeFileSync(path, content);
    disk.unmount();
    flipBit(disk.imageFile, content.subarray(0, blockBytes));
    disk.mount();
    if (checksummed[type])
      assert.throws(
        () => fs.readFileSync(path),
        (error) => isErrno(error, 'EIO'),
      );
    else assert.notDeepEqual(fs.readFileSync(path), content);
  });

for (const type of types)
  test(`5.4 after a cut a file that is replaced is old or new, never half: ${type}`, async (t) => {
    // Clones of the image are instant: what they hold is what a dead machine's disk would.
    using outer = new DiskImage('xfs', { sizeMiB: 4096 });
    using disk = new DiskImage(type, { sizeMiB: 512, parent: outer.mountPoint });
    const writer = spawn(process.execPath, ['--eval', writeForEver, disk.mountPoint]);
    try {
      await once(writer.stdout, 'data');
      for (let cut = 0; cut < cuts; cut++) {
        await sleep(100 + Math.random() * 100);
        fs.copyFileSync(disk.imageFile, clone(outer, cut), fs.constants.COPYFILE_FICLONE_FORCE);
      }
    } finally {
      writer.kill('SIGKILL');
      await once(writer, 'exit');
    }
    disk.unmount();
    const found = { replaced: new Set<string>(), inPlace: { whole: 0, torn: 0 } };
    for (let cut = 0; cut < cuts; cut++) {
      fs.copyFileSync(clone(outer, cut), disk.imageFile, fs.constants.COPYFILE_FICLONE_FORCE);
      disk.mount();
      found.replaced.add(versions(join(disk.mountPoint, 'replaced'), fileBytes).join(' '));
      const isWhole = versions(join(disk.mountPoint, 'in-place'), inPlaceBytes).length === 1;
      found.inPlace[isWhole ? 'whole' : 'torn']++;
      disk.unmount();
    }
    disk.mount();
    t.diagnostic(`${type}, ${cuts} cuts, written in place: ${JSON.stringify(found.inPlace)}`);
    for (const one of found.replaced) assert.match(one, /^\d+$/);
    assert.ok(found.replaced.size > 1, 'the cuts were at different times');
  });

/** Each block of a file holds its version: one by the rules, one by overwriting. */
const writeForEver = `
  const fs = require('node:fs');
  const [, place] = process.argv;
  const at = (name) => place + '/' + name;
  const inPlace = fs.openSync(at('in-place'), 'w+');
  for (let version = 1; ; version++) {
    const content = Buffer.alloc(${fileBytes});
    for (let block = 0; block < ${fileBytes}; block += ${blockBytes})
      content.writeUInt32LE(version, block);
    const next = fs.openSync(at('next'), 'w');
    fs.writeSync(next, content);
    fs.fsyncSync(next);
    fs.closeSync(next);
    fs.renameSync(at('next'), at('replaced'));
    for (let piece = 0; piece < ${inPlaceBytes}; piece += ${fileBytes})
      fs.writeSync(inPlace, content, 0, ${fileBytes}, piece);
    fs.fdatasyncSync(inPlace);
    if (version === 3) process.stdout.write('writing');
  }
`;

function versions(path: string, sizeBytes: number): number[] {
  const content = fs.readFileSync(path);
  assert.equal(content.length, sizeBytes, path);
  const found = new Set<number>();
  for (let block = 0; block < sizeBytes; block += blockBytes)
    found.add(content.readUInt32LE(block));
  return [...found];
}

function clone(outer: DiskImage, cut: number): string {
  return join(outer.mountPoint, `cut-${cut}`);
}

/** In every copy of the block: the file system may keep several. */
function flipBit(imageFile: string, block: Buffer): void {
  const { stdout } = spawnSync(
    'grep',
    [
      '--byte-offset',
      '--only-matching',
      '--text',
      '--fixed-strings',
      block.toString('latin1', 0, 29),
      imageFile,
    ],
    { maxBuffer: 1 << 30 },
  );
  const offset = Number.parseInt(stdout.toString('latin1'), 10);
  assert.ok(offset > 0, 'the block is in the image');
  const fd = fs.openSync(imageFile, 'r+');
  try {
    fs.writeSync(fd, Buffer.from([(block[0] ?? 0) ^ 1]), 0, 1, offset);
  } finally {
    fs.closeSync(fd);
  }
}
