/** A tag that is imported anew while the image it stood for until then is evicted. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { LayerStore } from '../../host/image/layer-store.ts';
import { file, makeLayout } from '../support/image-layout.ts';

const rounds = 10;

test('the record of the new image stays, on the disk too', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'hatch-renames-'));
  t.after(() => rm(directory, { recursive: true }));
  for (const name of ['old', 'new'])
    await makeLayout({
      directory: join(directory, name),
      compression: 'none',
      layers: [[file(name, name)]],
    });
  const root = join(directory, 'store');
  const store = await LayerStore.open({ root });
  const importAs = (name: string, reference: string) =>
    store.importLayout({ directory: join(directory, name), reference });
  await importAs('new', 'kept:1');
  for (let round = 0; round < rounds; round++) {
    const old = await importAs('old', 'tag:1');
    const records = (await readdir(join(root, 'images'))).map((one) => join(root, 'images', one));
    const inodes = new Set(records.map(inodeOf));
    const imported = importAs('new', 'tag:1');
    // The new record has its name already, and the import does not know yet.
    while (records.every((one) => inodes.has(inodeOf(one)))) await turn();
    for (const { chainId } of old.layers) assert.ok(store.removeLayer(chainId));
    await imported;
    await store.settled();
    const names = store.images().map(({ reference }) => reference);
    assert.deepEqual(names.toSorted(), ['kept:1', 'tag:1']);
    assert.equal((await readdir(join(root, 'images'))).length, 2, `round ${round}`);
  }
  await store.close();
});

function inodeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.ino;
}
