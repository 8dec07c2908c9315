/** 6.1: LRU by bytes; a pinned or mounted layer is never evicted. With real layers on disk. */
import assert from 'node:assert/strict';
import { closeSync, existsSync, readFileSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { HatchError } from '../../host/base/errors.ts';
import { LayerStore } from '../../host/image/layer-store.ts';
import type { StoredLayer } from '../../host/image/stored-image.ts';
import { writeLayer } from '../../host/image/layer-tar.ts';
import { hostPlatform } from '../../host/image/manifest.ts';
import { writeImage } from '../../host/image/oci-layout.ts';
import { attachMount, createMount, detachMount } from '../../host/sys/mount.ts';

const MiB = 1024 * 1024;

let directory: string;
let store: LayerStore;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-cache-'));
  store = await LayerStore.open({
    root: join(directory, 'store'),
    capacityBytes: 10 * MiB,
    policy: 'lru',
  });
});
afterEach(async () => {
  await store.close();
  await rm(directory, { recursive: true });
});

async function blob(name: string, sizeBytes: number) {
  const destination = join(directory, name);
  const content = Buffer.alloc(sizeBytes, name);
  const layer = await writeLayer({
    entries: [{ type: 'file', path: name, mode: 0o644, content }],
    destination,
    compression: 'zstd',
  });
  return { ...layer, blob: destination };
}

async function importOne(name: string, sizeBytes = 3 * MiB): Promise<StoredLayer> {
  return store.importLayer(await blob(name, sizeBytes));
}

/** The layers on disk and those the store lists, which must be the same. */
async function present(): Promise<string[]> {
  await store.settled();
  const onDisk = readdirSync(store.layersDirectory).toSorted();
  const listed = store.layers().map(({ directoryName }) => directoryName);
  assert.deepEqual(listed.toSorted(), onDisk);
  return onDisk.flatMap((name) => readdirSync(join(store.layersDirectory, name))).toSorted();
}

test('6.1 under pressure the least recently used layers go, by bytes', async () => {
  const one = await importOne('one');
  await importOne('two');
  await importOne('three');
  store.touch(one.chainId);
  await importOne('four');
  assert.deepEqual(await present(), ['four', 'one', 'three']);
  await importOne('large', 7 * MiB);
  assert.deepEqual(await present(), ['four', 'large']);
  assert.ok(store.usage.usedBytes <= store.usage.capacityBytes);
});

test('6.1 a mounted layer outlives any pressure, and goes when it is released', async () => {
  const mounted = await importOne('mounted');
  const lease = store.acquire([mounted.chainId]);
  const target = join(directory, 'mount');
  await mkdir(target);
  const mount = createMount({
    type: 'overlay',
    options: [{ key: 'lowerdir', value: `${mounted.path}:${target}` }],
    attributes: 0,
  });
  try {
    attachMount(mount, target);
    for (let round = 0; round < 8; round++) await importOne(`round-${round}`);
    assert.deepEqual(await present(), ['mounted', 'round-6', 'round-7']);
    const bytes = readFileSync(join(target, 'mounted'));
    assert.deepEqual(bytes, Buffer.alloc(3 * MiB, 'mounted'));
  } finally {
    detachMount(target);
    closeSync(mount);
  }
  lease.release();
  await importOne('round-8');
  assert.deepEqual(await present(), ['mounted', 'round-7', 'round-8']);
  await importOne('large', 9 * MiB);
  assert.deepEqual(await present(), ['large']);
});

test('6.1 a pinned layer is kept, also over a restart, until it is unpinned', async () => {
  const pinned = await importOne('pinned');
  await store.pin(pinned.chainId);
  for (let round = 0; round < 4; round++) await importOne(`before-${round}`);
  await store.close();
  store = await LayerStore.open({
    root: join(directory, 'store'),
    capacityBytes: 10 * MiB,
    policy: 'lru',
  });
  for (let round = 0; round < 4; round++) await importOne(`after-${round}`);
  assert.deepEqual(await present(), ['after-2', 'after-3', 'pinned']);
  await store.unpin(pinned.chainId);
  await importOne('large', 9 * MiB);
  assert.deepEqual(await present(), ['large']);
});

test('6.1 with all of the capacity held an import is refused, naming the sizes', async () => {
  const held = await importOne('held', 6 * MiB);
  const idle = await importOne('idle', 3 * MiB);
  using _lease = store.acquire([held.chainId]);
  await assert.rejects(importOne('too-large', 5 * MiB), (error) => {
    assert.ok(error instanceof HatchError);
    assert.equal(error.code, 'image.cache_full');
    assert.equal(error.details['heldBytes'], 6 * MiB);
    assert.equal(error.details['capacityBytes'], 10 * MiB);
    return true;
  });
  assert.deepEqual(await present(), ['held', 'idle']);
  assert.deepEqual(readdirSync(join(directory, 'store', 'ingest')), []);
  await importOne('fits', 4 * MiB);
  assert.deepEqual(await present(), ['fits', 'held']);
  assert.equal(store.layer(idle.chainId), undefined);
});

test('6.1 a real import of images under pressure never breaks a listed image', async () => {
  for (const [index, name] of ['red', 'green', 'blue', 'white'].entries()) {
    const layers = [await blob('base', 2 * MiB), await blob(name, (index + 1) * MiB)];
    const layout = join(directory, `layout-${name}`);
    await writeImage({
      directory: layout,
      reference: `${name}:1`,
      platform: hostPlatform(),
      config: {
        ...hostPlatform(),
        config: {},
        rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
      },
      layers: layers.map((layer) => ({
        file: layer.blob,
        descriptor: {
          mediaType: layer.mediaType,
          digest: layer.digest,
          size: layer.sizeBytes,
        },
      })),
    });
    await rm(join(directory, 'base'));
    const image = await store.importLayout({ directory: layout });
    assert.equal(image.layers.length, 2);
    await store.settled();
    for (const listed of store.images())
      for (const { path } of listed.layers) assert.ok(existsSync(path));
    assert.ok(store.usage.usedBytes <= 10 * MiB);
  }
  // 2 + 1 + 2 + 3 + 4 MiB do not fit: the first images went, what they share stayed.
  assert.deepEqual(
    store.images().map(({ reference }) => reference),
    ['blue:1', 'white:1'],
  );
  assert.deepEqual(await present(), ['base', 'blue', 'white']);
});
