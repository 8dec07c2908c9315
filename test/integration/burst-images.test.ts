/** Bursts of functions on images: fetched from a registry, held, and called without it. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { createReadStream } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { burstHandlers } from '../../host/dispatch/burst-handlers.ts';
import type { BurstParts } from '../../host/dispatch/burst-handlers.ts';
import { HatchError } from '../../host/base/errors.ts';
import type { FunctionImages, FunctionVersion } from '../../host/function/record.ts';
import { BurstPins } from '../../host/image/burst-pins.ts';
import type { BurstReport } from '../../host/image/burst-pins.ts';
import { openImages } from '../../host/image/images.ts';
import type { Images } from '../../host/image/images.ts';
import { writeLayer } from '../../host/image/layer-tar.ts';
import type { LayerBlob, LayerEntry } from '../../host/image/layer-tar.ts';
import { hostPlatform } from '../../host/image/manifest.ts';
import { readImage } from '../../host/image/oci-layout.ts';
import { layoutBlobs } from '../../host/image/push.ts';
import { parseRemoteName } from '../../host/image/registry/remote-name.ts';
import { file, makeLayout } from '../support/image-layout.ts';
import { RegistryServer } from '../support/registry-server.ts';

const MiB = 2 ** 20;
/** Compresses to a quarter, as what a burst has to guess the size of is expected to. */
const usual = (bytes: number): Buffer =>
  Buffer.concat([randomBytes(bytes / 4), Buffer.alloc((bytes * 3) / 4)]);
const hourMs = 3_600_000;
let directory: string;
let registry: RegistryServer;
let images: Images;
let bursts: BurstPins;
let stores = 0;
const versions = new Map<string, { version: FunctionVersion; file: string }>();
/** What every image is built upon, and one more on that. */
const below: LayerEntry[] = [file('below', usual(2 * MiB))];
const shared: LayerEntry[] = [file('shared', Buffer.alloc(MiB, 'shared'))];

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-burst-images-'));
  registry = await RegistryServer.start();
});
after(async () => {
  await registry[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});
beforeEach(() => open());
afterEach(async () => {
  bursts.release();
  await images.close();
});

async function open(capacityBytes = 64 * MiB): Promise<void> {
  const registries = {
    credentialsFile: join(directory, 'none.json'),
    insecure: [registry.host],
    caFile: undefined,
    policy: { attemptsMax: 2, firstWaitMs: 1, waitMaxMs: 10 },
  };
  const store = { root: join(directory, `store-${++stores}`), capacityBytes };
  images = await openImages({ store, registries, downloadsMax: 2 });
  bursts = new BurstPins(images.store);
}

/** The name with its digest, as a deploy writes it down. */
async function push(name: string, layers: LayerEntry[][]): Promise<string> {
  const place = join(directory, name);
  await makeLayout({ directory: place, compression: 'gzip', layers });
  const reference = `${registry.host}/team/${name}:1`;
  const image = await readImage(place, { platform: hostPlatform() });
  await images.client.push(parseRemoteName(reference), image, { blobs: layoutBlobs(place) });
  return images.puller.resolve(reference);
}

async function declare(name: string, on: FunctionImages, sizeBytes = 1024): Promise<void> {
  const destination = join(directory, `bundle-${name}`);
  const content = Buffer.alloc(sizeBytes, name);
  const layer: LayerBlob = await writeLayer({
    entries: [{ type: 'file', path: name, mode: 0o644, content }],
    destination,
    compression: 'zstd',
  });
  const version = { name, version: '1', layer, images: on } as FunctionVersion;
  versions.set(name, { version, file: destination });
}

function pin(calls: Record<string, number>): Promise<BurstReport> {
  const parts: BurstParts = {
    bursts,
    images,
    baseLayer: undefined,
    registry: {
      resolve: (name) => {
        const known = versions.get(name);
        if (known === undefined) throw new HatchError('function.not_found', `No "${name}"`);
        return known.version;
      },
      getLayer: async (digest) => {
        const all = [...versions.values()];
        const found = all.find(({ version }) => version.layer.digest === digest);
        assert.ok(found !== undefined);
        return createReadStream(found.file);
      },
    },
  };
  const functions = Object.entries(calls).map(([name, count]) => ({ name, calls: count }));
  const handle = burstHandlers(parts)['burst.pin'];
  return Promise.resolve(handle({ functions, forMs: hourMs }, { tenant: undefined }));
}

test('fetches the layers of images, shared ones once, and holds all', async () => {
  const one = await push('one', [below, shared, [file('one', 'one')]]);
  const two = await push('two', [below, shared, [file('two', 'two')]]);
  const library = await push('library', [[file('library', Buffer.alloc(MiB, 'library'))]]);
  await declare('first', { image: one, layers: [library] });
  await declare('second', { image: two, layers: [library] });
  await declare('third', { layers: [library] });
  const report = await pin({ first: 3, second: 2, third: 1 });
  assert.deepEqual([report.ready, report.notReady], [['first', 'second', 'third'], []]);
  // below, shared, one, two, library and three bundles.
  assert.equal(report.fetchedLayers, 8);
  assert.equal(report.pinnedBytes, images.store.usage.heldBytes);
  assert.ok(report.pinnedBytes < 4 * MiB + 8 * 4096, `${report.pinnedBytes} bytes`);
  assert.ok(images.store.layers().every(({ chainId }) => images.store.isHeld(chainId)));

  // What a start needs is here, whatever becomes of the registry; and a new burst fetches nothing.
  await registry.stop();
  try {
    for (const reference of [one, two, library]) (await images.puller.acquire(reference)).release();
    const again = await pin({ first: 1, second: 1 });
    assert.deepEqual([again.ready, again.fetchedLayers], [['first', 'second'], 0]);
  } finally {
    await registry.restart();
  }
});

test('keeps within the capacity: who is called most per byte, all layers or none', async () => {
  await images.close();
  await open(10 * MiB);
  const big = await push('big', [[file('big', usual(6 * MiB))]]);
  const small = await push('small', [below, [file('small', usual(2 * MiB))]]);
  await declare('on-big', { image: big, layers: [] });
  await declare('on-small', { image: small, layers: [] });
  await declare('on-both', { image: small, layers: [big] });
  const report = await pin({ 'on-big': 1, 'on-small': 5, 'on-both': 1 });
  assert.deepEqual(report.ready, ['on-small']);
  const reason = 'there is no room for its layers';
  assert.deepEqual(report.notReady, [
    { name: 'on-big', reason },
    { name: 'on-both', reason },
  ]);
  assert.equal(images.store.image(big), undefined);
  assert.ok(images.store.usage.heldBytes <= 9 * MiB);
});

test('an image that cannot be had is said, and the others are pinned', async () => {
  const there = await push('there', [[file('there', 'there')]]);
  const gone = there.replace('there', 'gone');
  await declare('on-there', { image: there, layers: [] });
  await declare('on-gone', { image: gone, layers: [] });
  const report = await pin({ 'on-there': 1, 'on-gone': 1 });
  assert.deepEqual(report.ready, ['on-there']);
  assert.equal(report.notReady[0]?.name, 'on-gone');
  assert.match(report.notReady[0]?.reason ?? '', /team\/gone/);
});
