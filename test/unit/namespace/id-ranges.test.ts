import assert from 'node:assert/strict';
import { chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { IdRanges, idsPerRange } from '../../../host/namespace/id-ranges.ts';

const firstHostId = 1_000_000_000;
let place: string;

beforeEach(() => {
  place = mkdtempSync(join(tmpdir(), 'hatch-ranges-'));
  mkdirSync(join(place, 'layers/layer'), { recursive: true });
});
afterEach(() => rmSync(place, { recursive: true }));

function open(options: { rangesMax: number; readyCount: number }): IdRanges {
  return new IdRanges({
    firstHostId,
    layersDirectory: join(place, 'layers'),
    mountDirectory: join(place, 'mounts'),
    ...options,
  });
}

function mountCount(): number {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  return mounts.filter((line) => line.includes(`${place}/mounts/`)).length;
}

test('each range has ids of its own, and sees the layers as its root owns them', async () => {
  const ranges = open({ rangesMax: 10, readyCount: 0 });
  chownSync(join(place, 'layers/layer'), 7, 7);
  const [first, second] = [ranges.acquire(), ranges.acquire()];
  assert.equal(first.firstHostId, firstHostId);
  assert.equal(second.firstHostId, firstHostId + idsPerRange);
  for (const range of [first, second])
    assert.equal(statSync(join(range.layersDirectory, 'layer')).uid, range.firstHostId + 7);
  ranges.release(first);
  assert.equal(ranges.acquire(), first);
  for (const range of [first, second]) ranges.release(range);
  await ranges.close();
  assert.equal(mountCount(), 0);
});

test('those made ahead are bounded, and given up with the others', async () => {
  const ranges = open({ rangesMax: 10, readyCount: 3 });
  await ranges.fill();
  assert.equal(mountCount(), 3);
  const range = ranges.acquire();
  assert.equal(mountCount(), 3);
  ranges.release(range);
  await ranges.close();
  assert.equal(mountCount(), 0);
});

test('a file system that takes no idmapped mounts is told by name, at the start', async () => {
  const ranges = new IdRanges({
    firstHostId,
    rangesMax: 10,
    readyCount: 3,
    // Of sysfs.
    layersDirectory: '/sys/kernel',
    mountDirectory: join(place, 'mounts'),
  });
  const refused = { code: 'host.unsupported', message: /on "\/sys\/kernel": its file system/ };
  await assert.rejects(ranges.fill(), refused);
  assert.throws(() => ranges.acquire(), refused);
  await ranges.close();
  assert.equal(mountCount(), 0);
});

test('at the limit there is no other, made ahead or not', async () => {
  const ranges = open({ rangesMax: 2, readyCount: 3 });
  await ranges.fill();
  const [first, second] = [ranges.acquire(), ranges.acquire()];
  assert.throws(() => ranges.acquire(), { code: 'host.busy', message: /All 2 ranges/ });
  ranges.release(first);
  assert.equal(ranges.acquire(), first);
  for (const range of [first, second]) ranges.release(range);
  await ranges.close();
  assert.equal(mountCount(), 0);
});
