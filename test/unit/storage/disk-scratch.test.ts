import assert from 'node:assert/strict';
import fs from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { test } from 'node:test';
import { DiskScratch } from '../../../host/storage/disk-scratch.ts';
import { treeOf, withLayers } from '../../contract/storage-layers.ts';

test('pairs are kept ready and made on the spot when there are none', () =>
  withLayers(async (layers) => {
    const directory = layers.path('state');
    const scratch = new DiskScratch({ directory, spareCount: 3 });
    const taken = [scratch.take(undefined), scratch.take(undefined)];
    for (const { directory: pair } of taken) assert.deepEqual(treeOf(pair), ['upper', 'work']);
    assert.equal(new Set(taken.map((one) => one.directory)).size, 2);
    await until(() => fs.readdirSync(directory).length === 1 + 2 + 3);
    await Promise.all(taken.map((one) => one.release()));
    await scratch.close();
    assert.deepEqual(treeOf(directory), ['trash']);
  }));

test('removeAll clears what an earlier run left, trash included, and nothing of this run', () =>
  withLayers(async (layers) => {
    const directory = layers.path('state');
    const earlier = new DiskScratch({ directory, spareCount: 0 });
    const left = earlier.take(undefined);
    fs.writeFileSync(`${left.directory}/upper/file`, 'x');
    fs.mkdirSync(`${directory}/trash/half/removed`, { recursive: true });

    const scratch = new DiskScratch({ directory, spareCount: 0 });
    const mine = scratch.take(undefined);
    await scratch.removeAll();
    assert.deepEqual(
      fs.readdirSync(directory),
      [mine.directory.slice(directory.length + 1), 'trash'].toSorted(),
    );
    assert.deepEqual(fs.readdirSync(`${directory}/trash`), []);
    await mine.release();
    await scratch.close();
  }));

test('a failing removal is told to its owner, and the next one works', () =>
  withLayers(async (layers) => {
    const scratch = new DiskScratch({ directory: layers.path('state'), spareCount: 0 });
    const [gone, there] = [scratch.take(undefined), scratch.take(undefined)];
    fs.rmSync(gone.directory, { recursive: true });
    await assert.rejects(gone.release(), { code: 'ENOENT' });
    await there.release();
    await scratch.close();
    assert.deepEqual(treeOf(layers.path('state')), ['trash']);
  }));

async function until(done: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !done(); i++) await setTimeout(5);
  assert.ok(done());
}
