/** Functions whose layers together are more than the host has room for. */
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { HatchError } from '../../../host/base/errors.ts';
import { LocalFunctions } from '../../../host/dispatch/local-functions.ts';
import { parseManifest } from '../../../host/function/manifest.ts';
import type { FunctionState, FunctionVersion } from '../../../host/function/record.ts';
import { FakePool } from '../../support/fake-pool.ts';

const layerBytes = 10;
const capacityBytes = 25;
const digest = `sha256:${'0'.repeat(64)}` as const;
let latest: Map<string, string>;
let held: Set<string>;
let pool: FakePool;
let functions: LocalFunctions;
let log: string[];
/** Or it turns out while it is unpacked that the layer is too large. */
let isMeasured: boolean;

beforeEach(() => {
  latest = new Map(['a', 'b', 'c'].map((name) => [name, '1']));
  held = new Set();
  pool = new FakePool();
  log = [];
  isMeasured = true;
  functions = new LocalFunctions({
    resolve: (name, version) => versionOf(name, version ?? latest.get(name) ?? assert.fail(name)),
    loadLayers,
    readSecret: () => assert.fail(),
    pool,
    store: {
      get usage() {
        const heldBytes = held.size * layerBytes;
        return { usedBytes: heldBytes, heldBytes, capacityBytes };
      },
    },
    log: { warn: ({ function: name }, text) => log.push(`${String(name)}: ${text}`) },
    restAfterMs: 0,
    retryMs: 1,
  });
});

test('the one that was called least recently rests, until it is called again', async () => {
  await functions.resolve('a');
  await functions.resolve('b');
  await sleep(1);
  await functions.resolve('a');
  await sleep(1);
  await functions.resolve('c');
  assert.deepEqual([...held], ['a@1', 'c@1']);
  assert.deepEqual(log, ['b: Its layers may be evicted until its next call']);
  await sleep(1);
  assert.equal((await functions.resolve('b')).name, 'b');
  assert.deepEqual([...held], ['c@1', 'b@1']);
});

test('one that has an instance does not rest', async () => {
  await pool.prepare(await functions.resolve('a'));
  await functions.resolve('b');
  await functions.resolve('c');
  assert.deepEqual([...held], ['a@1', 'c@1']);
  await pool.prepare(await functions.resolve('c'));
  await assert.rejects(async () => functions.resolve('b'), { code: 'image.cache_full' });
  assert.deepEqual([...held], ['a@1', 'c@1']);
});

test('what nobody calls makes no other rest, and is loaded by its first call', async () => {
  for (const name of ['a', 'b', 'c']) await follow(name);
  assert.deepEqual([...held], ['a@1', 'b@1']);
  assert.deepEqual(log, ['c: No room for its layers until its first call']);
  await functions.resolve('c');
  assert.deepEqual([...held], ['b@1', 'c@1']);
});

test('calls reach the new version, though there is no room for it beside the old one', async () => {
  for (const name of ['a', 'b']) await follow(name);
  latest.set('a', '2');
  await follow('a');
  assert.deepEqual([...held], ['b@1']);
  assert.equal((await functions.resolve('a')).version, '2');
  assert.deepEqual([...held], ['b@1', 'a@2']);
});

test('a version with instances is replaced in spite of the room it takes', async () => {
  for (const name of ['a', 'b']) await follow(name);
  await pool.prepare(await functions.resolve('a'));
  latest.set('a', '2');
  await follow('a');
  assert.deepEqual([...held], ['a@2']);
  assert.equal((await functions.resolve('a')).version, '2');
});

test('what proves too large while it is unpacked is given more room, step by step', async () => {
  await functions.resolve('a');
  await functions.resolve('b');
  isMeasured = false;
  await functions.resolve('c');
  assert.deepEqual([...held], ['b@1', 'c@1']);
  held.add('fills');
  await functions.resolve('a');
  assert.deepEqual([...held], ['fills', 'a@1']);
});

test('where nothing else is loaded, what is too large is refused', async () => {
  for (const name of ['fills', 'overfills']) held.add(name);
  await assert.rejects(async () => functions.resolve('a'), { code: 'image.cache_full' });
  assert.deepEqual([...held], ['fills', 'overfills']);
});

async function follow(name: string): Promise<void> {
  const version = latest.get(name) ?? assert.fail(name);
  const state: FunctionState = {
    name,
    latest: version,
    aliases: {},
    versions: [version],
    history: [],
    revision: 1,
  };
  functions.onChange({ name, state, previous: undefined });
  await sleep(20);
}

function loadLayers({ name, version }: FunctionVersion): Promise<{
  directories: string[];
  env: Record<string, string>;
  release: () => void;
}> {
  const key = `${name}@${version}`;
  const heldBytes = held.size * layerBytes;
  if (heldBytes + layerBytes > capacityBytes) {
    const size = isMeasured
      ? { sizeBytes: layerBytes }
      : { roomBytes: Math.max(capacityBytes - heldBytes, 0) };
    const details = { ...size, heldBytes, capacityBytes };
    return Promise.reject(new HatchError('image.cache_full', 'No room', { details }));
  }
  held.add(key);
  return Promise.resolve({ directories: [], env: {}, release: () => held.delete(key) });
}

function versionOf(name: string, version: string): FunctionVersion {
  return {
    name,
    version,
    manifest: parseManifest({ name, entry: 'handler.ts' }),
    entryPath: '/function/index.cjs',
    layer: { digest, diffId: digest, sizeBytes: 1, mediaType: 'x' },
    images: { layers: [] },
    createdAtMs: 0,
  };
}
