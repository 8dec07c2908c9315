import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { totalmem, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readPressure, tellsOfPressure } from '../../../host/cgroup/pressure.ts';

const directory = mkdtempSync(join(tmpdir(), 'hatch-pressure-'));
after(() => rmSync(directory, { recursive: true }));
const memoryFile = join(directory, 'meminfo');
const MiB = 2 ** 20;
writeFileSync(memoryFile, 'MemTotal:    4096 kB\nMemFree:   1 kB\nMemAvailable:    3072 kB\n');
const none = join(directory, 'nothing');

test('the averages of the last ten seconds are read', () => {
  const line = (kind: string, share: number) => `${kind} avg10=${share} avg60=9 avg300=9 total=7\n`;
  writeFileSync(join(directory, 'cpu'), line('some', 23.2));
  writeFileSync(join(directory, 'memory'), line('some', 1.38) + line('full', 0.5));
  const read = readPressure({ pressureDirectory: directory, memoryFile, root: none });
  const stalls = { cpuSome: 23.2, memorySome: 1.38, memoryFull: 0.5 };
  assert.deepEqual(read, { ...stalls, memoryBytes: 4 * MiB, availableBytes: 3 * MiB });
  assert.equal(tellsOfPressure(directory), true);
});

test('a kernel that does not tell is no error', () => {
  const read = readPressure({ pressureDirectory: none, memoryFile: none, root: none });
  assert.deepEqual([read.cpuSome, read.memorySome, read.memoryFull], [0, 0, 0]);
  assert.equal(read.availableBytes, read.memoryBytes);
  assert.equal(tellsOfPressure(none), false);
});

test('of the machine and the limits above the host, the tightest counts', () => {
  const root = join(directory, 'cgroup');
  const group = join(root, 'slice/unit');
  mkdirSync(group, { recursive: true });
  const limit = (path: string, files: { max: string; current: number; cache: number }) => {
    writeFileSync(join(path, 'memory.max'), `${files.max}\n`);
    writeFileSync(join(path, 'memory.current'), `${files.current}\n`);
    const [active, inactive] = [files.cache / 2, files.cache / 2];
    writeFileSync(join(path, 'memory.stat'), `active_file ${active}\ninactive_file ${inactive}\n`);
  };
  const read = () => {
    const options = { pressureDirectory: none, memoryFile, root, group };
    const { memoryBytes, availableBytes } = readPressure(options);
    return [memoryBytes / MiB, availableBytes / MiB];
  };
  limit(group, { max: 'max', current: 9 * MiB, cache: 0 });
  assert.deepEqual(read(), [4, 3]);
  // The cache of a group can be taken from it.
  limit(group, { max: String(2 * MiB), current: 2 * MiB, cache: MiB });
  assert.deepEqual(read(), [2, 1]);
  limit(join(root, 'slice'), { max: String(8 * MiB), current: 7 * MiB, cache: 0 });
  assert.deepEqual(read(), [8, 1]);
});

test('this machine tells', () => {
  const { memoryBytes, availableBytes, ...stalls } = readPressure();
  for (const share of Object.values(stalls)) assert.ok(share >= 0 && share <= 100);
  assert.ok(memoryBytes <= totalmem() && availableBytes > 0 && availableBytes <= memoryBytes);
});
