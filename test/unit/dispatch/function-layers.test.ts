import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import { loadFunctionLayers } from '../../../host/dispatch/function-layers.ts';
import { parseManifest } from '../../../host/function/manifest.ts';
import type { FunctionImages } from '../../../host/function/record.ts';
import { chainId, digestOf } from '../../../host/image/digest.ts';
import type { Digest } from '../../../host/image/digest.ts';
import type { LayerImport } from '../../../host/image/image-import.ts';
import { leaseImage } from '../../../host/image/stored-image.ts';
import type { ImageLease, StoredImage, StoredLayer } from '../../../host/image/stored-image.ts';
import type { StorageDriver } from '../../../host/storage/storage-driver.ts';

const top = digestOf('function');
const version = {
  name: 'f',
  version: '1',
  manifest: parseManifest({ name: 'f', entry: 'index.ts' }),
  entryPath: '/function/index.cjs',
  layer: { digest: top, diffId: top, sizeBytes: 10, mediaType: 'x' },
  images: { layers: [] },
  createdAtMs: 0,
};

function layer(id: Digest): StoredLayer {
  const directoryName = id.slice(7, 12);
  const base = { diffId: id, digest: id, parentChainId: undefined, sizeBytes: 1 };
  return { ...base, chainId: id, directoryName, path: `/store/${directoryName}` };
}

/** A store that remembers what is leased; importing fails with `failure` when it is given. */
function fakeStore(failure?: HatchError) {
  const base = [digestOf('one'), digestOf('two')].map(layer);
  const held: Digest[] = [];
  const imported: LayerImport[] = [];
  const image = { reference: 'base', digest: digestOf('image'), layers: base };
  const acquire = (ids: readonly Digest[]) => {
    held.push(...ids);
    let isHeld = true;
    const release = () => {
      if (isHeld) for (const id of ids) held.splice(held.indexOf(id), 1);
      isHeld = false;
    };
    return { layers: ids.map(layer), release, [Symbol.dispose]: release };
  };
  return {
    base,
    held,
    imported,
    image: (reference: string) =>
      reference === 'base' ? (image as unknown as StoredImage) : undefined,
    importAndAcquire: (wanted: LayerImport) => {
      const isHeld = base.every(({ chainId: id }) => held.includes(id));
      assert.ok(isHeld, 'the base is leased while importing');
      imported.push(wanted);
      if (failure !== undefined) return Promise.reject(failure);
      return Promise.resolve(acquire([chainId(wanted.parentChainId, wanted.diffId)]));
    },
    acquire,
  };
}

/** A storage driver that remembers what is prepared. */
function fakeStorage(failure?: HatchError, readsLayers = true) {
  const prepared: (readonly string[])[] = [];
  const prepare = (paths: readonly string[]) => {
    if (failure !== undefined) return Promise.reject(failure);
    prepared.push(paths);
    return Promise.resolve({ release: () => void prepared.splice(prepared.indexOf(paths), 1) });
  };
  const of = () => ({ prepare, readsLayers }) as unknown as StorageDriver;
  return { prepared, of };
}

/** Which layers' reads are followed. */
function fakeReads() {
  const followed: string[] = [];
  const follow = (layers: readonly { path: string }[]) => {
    followed.push(...layers.map(({ path }) => path));
    const release = () => void followed.splice(0);
    return Promise.resolve({ begin: () => 0, ended: () => undefined, release });
  };
  return { followed, follow };
}

/** What a registry has: layers by image, and the variables that each sets. */
const registry: Record<string, { layers: StoredLayer[]; env: Record<string, string> }> = {
  app: {
    layers: ['app', 'two'].map((name) => layer(digestOf(name))),
    env: { HATCH_A: '', B: 'b' },
  },
  large: { layers: [layer(digestOf('large'))], env: { B: 'b'.repeat(70_000) } },
  many: { layers: [...Array(126).keys()].map((n) => layer(digestOf(`${n}`))), env: {} },
  shared: { layers: ['shared', 'app'].map((name) => layer(digestOf(name))), env: { C: 'c' } },
};

/** Gives images of `registry`, whose layers the store then holds. */
function fakePuller({ acquire }: ReturnType<typeof fakeStore>) {
  return {
    acquire: (reference: string): Promise<ImageLease> => {
      const found = registry[reference];
      if (found === undefined)
        return Promise.reject(new HatchError('image.registry_failed', 'the registry is down'));
      const { layers, env } = found;
      const image = { reference, layers, config: { env } } as unknown as StoredImage;
      return Promise.resolve(leaseImage(image, acquire(layers.map(({ chainId: id }) => id))));
    },
  };
}

const withImages = (images: FunctionImages) => ({ ...version, images });

const sources = (
  store: ReturnType<typeof fakeStore>,
  { baseImage = 'base', storage = fakeStorage(), startReads = fakeReads() } = {},
) => ({
  store,
  puller: fakePuller(store),
  storage,
  startReads,
  baseImage,
  fetchLayer: () => Promise.resolve(Readable.from(['bytes'])),
  directoryOf: (one: StoredLayer) => one.directoryName,
});

test('the function lies on the base image, all of it leased until released', async () => {
  const store = fakeStore();
  const storage = fakeStorage();
  const layers = await loadFunctionLayers(sources(store, { storage }), version);
  const parent = store.base[1]?.chainId;
  const own = layer(chainId(parent, top));
  assert.equal(store.imported[0]?.parentChainId, parent);
  assert.deepEqual(
    layers.directories,
    [...store.base, own].map((one) => one.directoryName),
  );
  assert.deepEqual(
    store.held,
    [...store.base, own].map((one) => one.chainId),
  );
  assert.deepEqual(storage.prepared, [[...store.base, own].map(({ path }) => path)]);
  layers.release();
  assert.deepEqual(store.held, []);
  assert.deepEqual(storage.prepared, []);
});

test('what starts read of the layers is followed where roots read that itself', async () => {
  for (const readsLayers of [true, false]) {
    const store = fakeStore();
    const startReads = fakeReads();
    const storage = fakeStorage(undefined, readsLayers);
    const layers = await loadFunctionLayers(sources(store, { storage, startReads }), version);
    const own = layer(chainId(store.base[1]?.chainId, top));
    assert.deepEqual(
      startReads.followed,
      readsLayers ? [...store.base, own].map(({ path }) => path) : [],
    );
    assert.equal(layers.startReads !== undefined, readsLayers);
    layers.release();
    assert.deepEqual(startReads.followed, []);
  }
});

test('a failed import leaves nothing leased', async () => {
  const store = fakeStore(new HatchError('image.invalid', 'bad'));
  await assert.rejects(loadFunctionLayers(sources(store), version), /bad/);
  assert.deepEqual(store.held, []);
});

test('a driver that cannot join the layers leaves nothing leased', async () => {
  const store = fakeStore();
  const storage = fakeStorage(new HatchError('host.start_failed', 'no room'));
  await assert.rejects(loadFunctionLayers(sources(store, { storage }), version), /no room/);
  assert.deepEqual(store.held, []);
});

test('a base image that is not there is named', async () => {
  const wanted = loadFunctionLayers(sources(fakeStore(), { baseImage: 'other' }), version);
  await assert.rejects(wanted, /Cannot find base image "other": import it/);
});

test('its image lies below the base image, its layers above, each once and leased', async () => {
  const store = fakeStore();
  const images = { image: 'app', layers: ['shared'] };
  const layers = await loadFunctionLayers(sources(store), withImages(images));
  const own = chainId(digestOf('two'), top);
  const expected = [...['app', 'one', 'two', 'shared'].map((name) => digestOf(name)), own];
  assert.deepEqual(
    layers.directories,
    expected.map((id) => layer(id).directoryName),
  );
  assert.deepEqual(store.held, expected);
  assert.deepEqual(layers.env, { B: 'b' }, 'the variables of the image, without ours');
  layers.release();
  assert.deepEqual(store.held, []);
});

for (const [why, images, message] of [
  ['cannot be had', { layers: ['shared', 'gone'] }, /the registry is down/],
  ['has too many layers', { image: 'many', layers: ['app'] }, /Cannot join 130 layers: .* 128/],
  ['sets too much', { image: 'large', layers: [] }, /its environment variables/],
] as const)
  test(`an image that ${why} leaves nothing leased`, async () => {
    const store = fakeStore();
    const wanted = withImages({ ...images, layers: [...images.layers] });
    await assert.rejects(loadFunctionLayers(sources(store), wanted), { message });
    assert.deepEqual(store.held, []);
  });
