/** Imports, starts, collections, removals and pins at once, in a store too small for all. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { HatchError } from '../../host/base/errors.ts';
import { collectLayers } from '../../host/image/collect.ts';
import { LayerStore } from '../../host/image/layer-store.ts';
import type { ImageLease, StoredImage } from '../../host/image/stored-image.ts';
import { verifyLayer } from '../../host/image/verify.ts';
import { randomFrom } from '../sim/random.ts';
import { file, makeLayout } from '../support/image-layout.ts';

const workers = 8;
const roundsEach = 80;
const layerBytes = 16 * 1024;
/** Two of the six images, which have three layers each, share the lowest one. */
const names = ['a', 'b', 'c', 'd', 'e', 'f'];
const capacityBytes = 9 * layerBytes;

let directory: string;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-races-'));
  for (const [index, name] of names.entries()) {
    const shared = `base-${Math.floor(index / 2)}`;
    const layers = [shared, `${name}-middle`, `${name}-top`].map((content) => [
      file(content, content.padEnd(layerBytes, '.')),
    ]);
    await makeLayout({ directory: join(directory, name), compression: 'none', layers });
  }
});
after(() => rm(directory, { recursive: true }));

/** What a start does: nothing of the image may go while it is held. */
async function useWhileHeld({ image }: ImageLease, holdMs: number): Promise<void> {
  await assertWhole(image);
  await sleep(holdMs);
  await assertWhole(image);
}

async function assertWhole({ layers, reference }: StoredImage): Promise<void> {
  assert.equal(layers.length, 3, `${reference} has all its layers`);
  for (const { path } of layers) {
    const [content = ''] = await readdir(path);
    assert.equal(await readFile(join(path, content), 'utf8'), content.padEnd(layerBytes, '.'));
  }
}

test('nothing that is held or pinned ever goes, and the disk agrees with the store', async () => {
  const root = join(directory, 'store');
  const errors: unknown[] = [];
  const onCleanupError = (error: unknown): void => void errors.push(error);
  const store = await LayerStore.open({ root, capacityBytes, onCleanupError });
  const counts = { held: 0, imported: 0, collected: 0, removed: 0, full: 0 };
  const random = randomFrom(20);
  const pick = (): string => names[Math.floor(random() * names.length)] ?? 'a';

  const deeds: (() => Promise<void>)[] = [
    async () => {
      using lease = store.acquireImage(pick());
      if (lease === undefined) return;
      counts.held += 1;
      await useWhileHeld(lease, random() * 4);
    },
    async () => {
      const name = pick();
      await store.importLayout({ directory: join(directory, name), reference: name });
      counts.imported += 1;
    },
    async () => {
      counts.collected += (await collectLayers(store, { images: random() < 0.5 })).layers;
    },
    async () => {
      if (await store.removeImage(pick())) counts.removed += 1;
    },
    async () => {
      const image = store.image(pick());
      const top = image?.layers.at(-1);
      if (image === undefined || top === undefined) return;
      await store.pin(top.chainId);
      await sleep(random() * 2);
      assert.ok((await readdir(top.path)).length > 0, 'a pinned layer stays');
      await store.unpin(top.chainId);
    },
  ];

  const work = async (): Promise<void> => {
    for (let round = 0; round < roundsEach; round++) {
      // Imports as often as all else: there is to be something to fight for.
      const deed = deeds[random() < 0.4 ? 1 : Math.floor(random() * deeds.length)];
      try {
        await deed?.();
      } catch (error) {
        if (!(error instanceof HatchError) || error.code !== 'image.cache_full') throw error;
        counts.full += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: workers }, work));
  for (const [what, count] of Object.entries(counts))
    assert.ok(what === 'full' || count > 10, JSON.stringify(counts));

  for (const image of store.images()) {
    await assertWhole(image);
    for (const { chainId } of image.layers) assert.deepEqual(await verifyLayer(store, chainId), []);
  }
  const references = (one: LayerStore) => one.images().map(({ reference }) => reference);
  const listed = references(store).toSorted();
  const layers = store.layers().map(({ directoryName }) => directoryName);
  await store.close();
  assert.deepEqual(errors, []);
  assert.deepEqual((await readdir(store.layersDirectory)).toSorted(), layers.toSorted());
  const again = await LayerStore.open({ root, capacityBytes });
  assert.deepEqual(references(again).toSorted(), listed, 'the records survive a restart');
  await again.close();
});
