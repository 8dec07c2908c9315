import assert from 'node:assert/strict';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { diskOf, diskOfBtrfs } from '../../../host/cgroup/disk.ts';

test('a directory without a disk below it has none', () => {
  assert.equal(diskOf('/proc'), undefined);
  assert.equal(diskOf('/dev/shm'), undefined);
});

test('a directory on a disk has that, on a partition the whole disk', (context) => {
  const sys = fs.mkdtempSync(join(tmpdir(), 'hatch-disk-'));
  context.after(() => fs.rmSync(sys, { recursive: true }));
  const device = deviceOfMount(sys);
  const partition = join(sys, 'devices/disk/disk1');
  fs.mkdirSync(partition, { recursive: true });
  fs.mkdirSync(join(sys, 'dev/block'), { recursive: true });
  fs.symlinkSync(partition, join(sys, 'dev/block', device));
  fs.writeFileSync(join(partition, 'dev'), `${device}\n`);
  assert.equal(diskOf(sys, sys), device);
  fs.writeFileSync(join(partition, 'partition'), '1\n');
  fs.writeFileSync(join(sys, 'devices/disk/dev'), '8:16\n');
  assert.equal(diskOf(sys, sys), '8:16');
});

test('a btrfs has the disk of its devices, if that is one', (context) => {
  const sys = fs.mkdtempSync(join(tmpdir(), 'hatch-disk-'));
  context.after(() => fs.rmSync(sys, { recursive: true }));
  assert.equal(diskOfBtrfs(sys), undefined);
  const add = (disk: string, partition: string, number: string): void => {
    const directory = join(sys, 'devices-of-all', disk, partition);
    fs.mkdirSync(directory, { recursive: true });
    fs.writeFileSync(join(directory, 'partition'), '1\n');
    fs.writeFileSync(join(directory, '../dev'), `${number}\n`);
    fs.symlinkSync(directory, join(sys, 'devices', partition));
  };
  fs.mkdirSync(join(sys, 'devices'));
  add('sda', 'sda1', '8:0');
  assert.equal(diskOfBtrfs(sys), '8:0');
  add('sda', 'sda2', '8:0');
  assert.equal(diskOfBtrfs(sys), '8:0');
  add('sdb', 'sdb1', '8:16');
  assert.equal(diskOfBtrfs(sys), undefined);
});

/** As the kernel prints it: what our own arithmetic has to find. */
function deviceOfMount(directory: string): string {
  const line = fs
    .readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((text) => text.split(' '))
    .filter(([, , , , point = '']) => directory.startsWith(point))
    .toSorted(([, , , , a = ''], [, , , , b = '']) => a.length - b.length)
    .at(-1);
  assert.ok(line?.[2], 'no mount is above the directory');
  return line[2];
}
