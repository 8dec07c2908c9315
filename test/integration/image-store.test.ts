import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { chainId, chainIds } from '../../host/image/digest.ts';
import type { Digest } from '../../host/image/digest.ts';
import { LayerStore } from '../../host/image/layer-store.ts';
import type { LayerStoreOptions } from '../../host/image/layer-store.ts';
import { writeLayer } from '../../host/image/layer-tar.ts';
import type { LayerBlob, LayerEntry } from '../../host/image/layer-tar.ts';
import { hostPlatform } from '../../host/image/manifest.ts';
import { writeImage } from '../../host/image/oci-layout.ts';

const storeModule = new URL('../../host/image/layer-store.ts', import.meta.url).href;

let directory: string;
let opened: LayerStore[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-store-'));
  opened = [];
});
afterEach(async () => {
  for (const store of opened) await store.settled();
  await rm(directory, { recursive: true });
});

async function openStore(options: Partial<LayerStoreOptions> = {}): Promise<LayerStore> {
  const store = await LayerStore.open({ root: join(directory, 'store'), ...options });
  opened.push(store);
  return store;
}

let blobs = 0;
async function makeLayer(entries: LayerEntry[]): Promise<LayerBlob & { blob: string }> {
  const blob = join(directory, `blob-${++blobs}`);
  return { ...(await writeLayer({ entries, destination: blob, compression: 'gzip' })), blob };
}

function file(path: string, content: string | Uint8Array): LayerEntry {
  return { type: 'file', path, mode: 0o644, content };
}

/** A layout with one image of two layers. */
async function makeLayout(
  name = 'layout',
  contents = ['below', 'above'],
): Promise<{ layout: string; layers: LayerBlob[] }> {
  const layers = await Promise.all(contents.map((content) => makeLayer([file(content, content)])));
  const layout = join(directory, name);
  await writeImage({
    directory: layout,
    reference: `${name}:1`,
    platform: hostPlatform(),
    config: {
      ...hostPlatform(),
      config: { Env: ['A=b=c'], Entrypoint: ['/bin/true'], Labels: { 'dev.hatchery.kind': 'x' } },
      rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
    },
    layers: layers.map(({ blob, digest, sizeBytes, mediaType }) => ({
      file: blob,
      descriptor: { mediaType, digest, size: sizeBytes },
    })),
  });
  return { layout, layers };
}

async function entriesOf(...path: string[]): Promise<string[]> {
  return (await readdir(join(directory, 'store', ...path))).toSorted();
}

describe('importing a layout', () => {
  test('stores its layers bottom first, by chain id, in one directory', async () => {
    const { layout, layers } = await makeLayout();
    const store = await openStore();
    const image = await store.importLayout({ directory: layout });
    assert.equal(image.reference, 'layout:1');
    assert.deepEqual(image.config.env, { A: 'b=c' });
    assert.deepEqual(image.config.entrypoint, ['/bin/true']);
    assert.deepEqual(
      image.layers.map((layer) => layer.chainId),
      chainIds(layers.map(({ diffId }) => diffId)),
    );
    for (const layer of image.layers)
      assert.equal(layer.path, join(store.layersDirectory, layer.directoryName));
    assert.equal(await readFile(join(image.layers[0]?.path ?? '', 'below'), 'utf8'), 'below');
    assert.equal(await readFile(join(image.layers[1]?.path ?? '', 'above'), 'utf8'), 'above');
    assert.equal(image.layers[1]?.sizeBytes, 'above'.length);
    assert.deepEqual(await entriesOf('ingest'), []);
  });

  test('shares layers that two images have in common', async () => {
    const store = await openStore();
    const one = await store.importLayout({
      directory: (await makeLayout('one', ['a', 'b'])).layout,
    });
    const two = await store.importLayout({
      directory: (await makeLayout('two', ['a', 'c'])).layout,
    });
    assert.equal(one.layers[0]?.path, two.layers[0]?.path);
    assert.equal((await entriesOf('layers')).length, 3);
    await store.removeImage('one:1');
    await store.settled();
    assert.deepEqual(
      store.images().map(({ reference }) => reference),
      ['two:1'],
    );
    assert.ok(existsSync(two.layers[0]?.path ?? ''));
    assert.ok(!existsSync(one.layers[1]?.path ?? ''));
    assert.equal(await store.removeImage('one:1'), false);
  });

  test('refuses a manifest, configuration or layer blob that was changed', async () => {
    for (const index of [0, 1, 2, 3]) {
      const { layout } = await makeLayout(`changed${index}`);
      const blobDirectory = join(layout, 'blobs', 'sha256');
      const path = join(blobDirectory, (await readdir(blobDirectory))[index] ?? '');
      const bytes = await readFile(path);
      bytes[bytes.length - 3] = (bytes.at(-3) ?? 0) ^ 1;
      await writeFile(path, bytes);
      const store = await openStore();
      await assert.rejects(store.importLayout({ directory: layout }), { code: 'image.invalid' });
      assert.equal(store.image(`changed${index}:1`), undefined);
      assert.deepEqual(await entriesOf('ingest'), []);
    }
  });

  test('names what is missing', async () => {
    const store = await openStore();
    await assert.rejects(store.importLayout({ directory: join(directory, 'none') }), {
      code: 'image.not_found',
      message: /index\.json" is missing/,
    });
    const { layout } = await makeLayout();
    await assert.rejects(store.importLayout({ directory: layout, name: 'other' }), {
      code: 'image.not_found',
      message: /Cannot find image "other" for linux\/.*: the index has "layout:1"/,
    });
    await assert.rejects(
      store.importLayout({ directory: layout, platform: { os: 'linux', architecture: 's390x' } }),
      { code: 'image.not_found' },
    );
  });
});

describe('importing one layer', () => {
  test('checks the size, the digest and the diffID', async () => {
    const layer = await makeLayer([file('a', 'x'.repeat(10_000))]);
    const other = await makeLayer([file('b', 'y')]);
    const store = await openStore();
    const cases: [Partial<typeof layer>, RegExp][] = [
      [{ sizeBytes: layer.sizeBytes - 1 }, /its size must be/],
      [{ sizeBytes: layer.sizeBytes + 1 }, /its size must be/],
      [{ digest: other.digest }, /its digest must be/],
      [{ diffId: other.diffId }, /its diffID must be/],
    ];
    for (const [change, message] of cases)
      await assert.rejects(store.importLayer({ ...layer, ...change }), {
        code: 'image.invalid',
        message,
      });
    assert.deepEqual(await entriesOf('ingest'), []);
    assert.deepEqual(await entriesOf('layers'), []);
    assert.deepEqual(store.layers(), []);
  });

  test('unpacks a layer once when it is imported many times at once', async () => {
    const layer = await makeLayer([file('a', 'x')]);
    const store = await openStore();
    const first = store.importLayer({ ...layer, blob: createReadStream(layer.blob) });
    // Never ends: an import that read it would not finish.
    const others = Array.from({ length: 8 }, () => new PassThrough());
    const all = await Promise.all([
      first,
      ...others.map((blob) => store.importLayer({ ...layer, blob })),
    ]);
    for (const stored of all) assert.equal(stored, all[0]);
    assert.ok(others.every((blob) => blob.destroyed));
    assert.equal((await entriesOf('layers')).length, 1);
  });

  test('a bad blob does not spoil a good one of the same layer', async () => {
    const layer = await makeLayer([file('a', 'x')]);
    const bad = await makeLayer([file('a', 'y')]);
    const store = await openStore();
    const [spoiled, good] = await Promise.allSettled([
      store.importLayer({ ...bad, diffId: layer.diffId }),
      store.importLayer(layer),
    ]);
    assert.equal(spoiled.status, 'rejected');
    assert.equal(good.status, 'fulfilled');
    assert.equal(store.layers().length, 1);
  });

  test('needs its parent', async () => {
    const layer = await makeLayer([file('a', 'x')]);
    const store = await openStore();
    const absent: Digest = `sha256:${'0'.repeat(64)}`;
    await assert.rejects(store.importLayer({ ...layer, parentChainId: absent }), {
      code: 'image.not_found',
    });
    const parent = await store.importLayer(layer);
    const child = await makeLayer([file('b', 'x')]);
    const stored = await store.importLayer({ ...child, parentChainId: parent.chainId });
    assert.equal(stored.chainId, chainId(parent.chainId, child.diffId));
  });

  test('reports a blob that cannot be read', async () => {
    const layer = await makeLayer([file('a', 'x')]);
    const store = await openStore();
    await assert.rejects(store.importLayer({ ...layer, blob: join(directory, 'none') }), {
      code: 'image.invalid',
      message: /ENOENT/,
    });
  });
});

describe('opening a store again', () => {
  test('finds its images, layers, pins and order of use', async () => {
    const { layout } = await makeLayout();
    const first = await openStore({ policy: 'lru' });
    const image = await first.importLayout({ directory: layout });
    const loose = await first.importLayer(await makeLayer([file('loose', '1')]));
    const [below, above] = image.layers;
    assert.ok(below !== undefined && above !== undefined);
    await first.pin(below.chainId);
    first.touch(above.chainId);
    await first.close();
    const second = await openStore({ policy: 'lru' });
    assert.deepEqual(second.images(), [image]);
    assert.deepEqual(second.layers(), [loose, above, below]);
    assert.ok(second.isPinned(below.chainId));
    assert.ok(!second.isPinned(above.chainId));
    assert.deepEqual(second.usage, first.usage);
    const added = await second.importLayer(await makeLayer([file('added', '1')]));
    assert.equal(new Set(second.layers().map(({ path }) => path)).size, 4);
    assert.ok(existsSync(added.path));
  });

  test('removes what a crash left half done', async () => {
    const first = await openStore();
    const image = await first.importLayout({ directory: (await makeLayout()).layout });
    const kept = await first.importLayer(await makeLayer([file('kept', '1')]));
    const root = join(directory, 'store');
    await mkdir(join(root, 'ingest', '9', 'half'), { recursive: true });
    await mkdir(join(root, 'trash', 'x'), { recursive: true });
    await mkdir(join(root, 'layers', 'zz'));
    await writeFile(join(root, 'records', '7.json'), '{"chainId":');
    await writeFile(join(root, 'records', '8.json.new'), '{}');
    await rm(image.layers[1]?.path ?? '', { recursive: true });
    const second = await openStore();
    assert.deepEqual(second.images(), []);
    assert.deepEqual(
      new Set(second.layers().map(({ path }) => path)),
      new Set([image.layers[0]?.path, kept.path]),
    );
    assert.deepEqual(await entriesOf('ingest'), []);
    assert.deepEqual(await entriesOf('trash'), []);
    assert.equal((await entriesOf('layers')).length, 2);
    assert.equal((await entriesOf('records')).length, 2);
    assert.deepEqual(await entriesOf('images'), []);
  });

  test('after a kill in the middle of an import, starts it from nothing', async () => {
    const layer = await makeLayer([
      file('first', 'x'),
      file('second', randomBytes(4 * 1024 * 1024)),
    ]);
    const bytes = await readFile(layer.blob);
    const root = join(directory, 'store');
    const program = `
      import { LayerStore } from ${JSON.stringify(storeModule)};
      const store = await LayerStore.open({ root: ${JSON.stringify(root)} });
      const layer = ${JSON.stringify(layer)};
      await store.importLayer({ ...layer, blob: process.stdin });`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['pipe', 'ignore', 'inherit'],
    });
    const ended = once(child, 'exit');
    // What the pipe had not taken when the process was killed.
    child.stdin.on('error', () => {});
    child.stdin.write(bytes.subarray(0, bytes.length / 2));
    const half = join(root, 'ingest', '1', 'second');
    for (let round = 0; round < 500 && !existsSync(half); round++) await setTimeout(10);
    assert.ok(existsSync(half));
    child.kill('SIGKILL');
    await ended;
    assert.deepEqual(await entriesOf('layers'), []);
    const store = await openStore();
    assert.deepEqual(await entriesOf('ingest'), []);
    assert.deepEqual(store.layers(), []);
    const stored = await store.importLayer(layer);
    assert.equal((await readFile(join(stored.path, 'second'))).length, 4 * 1024 * 1024);
  });
});
