/** Bursts on a real layer store: what is fetched, stays under pressure, and goes afterwards. */
import assert from 'node:assert/strict';
import { createReadStream } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { HatchError } from '../../host/base/errors.ts';
import { BurstPins, type BurstFunction, type LayerSource } from '../../host/image/burst-pins.ts';
import { chainId } from '../../host/image/digest.ts';
import { LayerStore } from '../../host/image/layer-store.ts';
import { writeLayer } from '../../host/image/layer-tar.ts';
import { waitFor } from '../support/host-processes.ts';

const MiB = 1024 * 1024;
const hourMs = 3_600_000;

let directory: string;
let store: LayerStore;
let bursts: BurstPins;
let opened: string[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-burst-'));
  store = await LayerStore.open({ root: join(directory, 'store'), capacityBytes: 10 * MiB });
  bursts = new BurstPins(store);
  opened = [];
});
afterEach(async () => {
  bursts.release();
  await store.close();
  await rm(directory, { recursive: true });
});

async function source(name: string, sizeBytes: number): Promise<LayerSource> {
  const destination = join(directory, name);
  const content = Buffer.alloc(sizeBytes, name);
  const layer = await writeLayer({
    entries: [{ type: 'file', path: name, mode: 0o644, content }],
    destination,
    compression: 'zstd',
  });
  const open = () => {
    opened.push(name);
    return Promise.resolve(createReadStream(destination));
  };
  return { ...layer, open };
}

async function fn(name: string, calls: number, sizeBytes = 2 * MiB): Promise<BurstFunction> {
  return { name, calls, layers: [await source(name, sizeBytes)] };
}

async function importOther(name: string, sizeBytes = 3 * MiB): Promise<BurstFunction> {
  const other = await fn(name, 5, sizeBytes);
  for (const { open, ...layer } of other.layers)
    await store.importLayer({ ...layer, blob: await open() });
  return other;
}

function isStored({ layers }: BurstFunction): boolean {
  return layers.every(
    ({ parentChainId, diffId }) => store.layer(chainId(parentChainId, diffId)) !== undefined,
  );
}

test('fetches what is missing, most called first, and holds it under any pressure', async () => {
  const functions = [await fn('few', 1), await fn('many', 9), await fn('some', 3)];
  const report = await bursts.pin(functions, hourMs);
  assert.deepEqual(opened, ['many', 'some', 'few']);
  assert.deepEqual(report.ready, ['few', 'many', 'some']);
  assert.deepEqual(report.notReady, []);
  assert.equal(report.pinnedBytes, 6 * MiB);
  assert.equal(report.readAheadBytes, 6 * MiB);
  assert.equal(report.fetchedLayers, 3);
  for (let round = 0; round < 4; round++) await importOther(`other-${round}`);
  assert.ok(functions.every(isStored));
  assert.ok(store.usage.usedBytes <= store.usage.capacityBytes);
});

test('fetches nothing twice, and leaves room for calls that nobody told of', async () => {
  const burst = [await fn('small', 5, 4 * MiB), await fn('large', 5, 6 * MiB)];
  const first = await bursts.pin(burst, hourMs);
  const second = await bursts.pin(burst, hourMs);
  assert.equal(first.fetchedLayers, second.fetchedLayers + first.ready.length);
  assert.ok(store.usage.heldBytes <= 9 * MiB);
  await importOther('unplanned', MiB);
});

test('says for which functions there is no room, or no layer to be had', async () => {
  const gone = await fn('gone', 9);
  const [layer] = gone.layers;
  assert.ok(layer !== undefined);
  const open = () => Promise.reject(new HatchError('image.not_found', 'nobody has it'));
  const lost = { ...gone, layers: [{ ...layer, open }] };
  const kept = await fn('kept', 5, 6 * MiB);
  const { ready } = await bursts.pin([kept], hourMs);
  assert.deepEqual(ready, ['kept']);
  // Beside it, 3 MiB are left.
  const lease = store.acquire(kept.layers.map((one) => chainId(one.parentChainId, one.diffId)));
  const stored = await importOther('stored', 4 * MiB);
  const report = await bursts.pin([lost, stored, kept], hourMs);
  assert.deepEqual(report.ready, ['kept']);
  assert.deepEqual(report.notReady, [
    { name: 'gone', reason: 'nobody has it' },
    { name: 'stored', reason: 'there is no room for its layers' },
  ]);
  lease.release();
});

test('lets go when the burst is over, is released, or another takes its place', async () => {
  const one = await fn('one', 1);
  await bursts.pin([one], 1000);
  assert.equal(store.usage.heldBytes, 2 * MiB);
  await waitFor('the burst is over', () => store.usage.heldBytes === 0);
  await bursts.pin([one], hourMs);
  const two = await fn('two', 1, 3 * MiB);
  await bursts.pin([two], hourMs);
  assert.equal(store.usage.heldBytes, 3 * MiB);
  bursts.release();
  assert.equal(store.usage.heldBytes, 0);
  assert.ok(isStored(one) && isStored(two));
});

test('a burst that is over while it fetches holds nothing', async () => {
  const one = await fn('one', 1);
  const [layer] = one.layers;
  assert.ok(layer !== undefined);
  const open = () => {
    bursts.release();
    return layer.open();
  };
  const report = await bursts.pin([{ ...one, layers: [{ ...layer, open }] }], hourMs);
  assert.deepEqual(report.notReady, [{ name: 'one', reason: 'the burst was over before' }]);
  assert.equal(store.usage.heldBytes, 0);
});
