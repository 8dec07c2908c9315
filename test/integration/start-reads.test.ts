/** What starts read is written down and read ahead, on a disk: nothing leaves a tmpfs. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, open, readFile, readdir, realpath, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { digestOf, hexOf, type Digest } from '../../host/image/digest.ts';
import { readAhead } from '../../host/image/read-ahead.ts';
import { StartReads, startReadBounds, type ReadLayer } from '../../host/image/start-reads.ts';
import { touchedPages, type MappingBounds } from '../../host/sys/mapped-files.ts';
import { makeRootPrivate } from '../../host/sys/mount.ts';
import { namespaceFlag, unshare } from '../../host/sys/namespace.ts';
import { cachedRanges, dropCached } from '../../host/sys/page-cache.ts';
import { DiskImage } from '../support/disk-image.ts';
import { startHost } from '../support/host.ts';

const KiB = 1024;
const MiB = 2 ** 20;
unshare(namespaceFlag.mount);
makeRootPrivate();
const disk = new DiskImage('ext4', { sizeMiB: 1024 });
after(() => disk[Symbol.dispose]());
const directory = disk.mountPoint;
let names = 0;

/** On the disk: what is dirty stays in memory. */
async function makeLayer(files: Record<string, number>): Promise<ReadLayer> {
  const path = join(directory, `layer-${++names}`);
  for (const [name, bytes] of Object.entries(files)) {
    await mkdir(join(path, name, '..'), { recursive: true });
    await writeFile(join(path, name), Buffer.alloc(bytes, 1), { flush: true });
  }
  return { path, chainId: digestOf(path), ofRuntime: false };
}

async function cachedBytes(path: string): Promise<number> {
  await using file = await open(path);
  const { size } = await file.stat();
  return cachedRanges(file.fd, size).reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
}

async function drop(path: string): Promise<void> {
  await using file = await open(path);
  dropCached(file.fd);
}

async function until(isSo: () => Promise<boolean>): Promise<void> {
  const giveUpAtMs = performance.now() + 5000;
  while (!(await isSo())) {
    assert.ok(performance.now() < giveUpAtMs, 'it did not come to be in 5 s');
    await sleep(5);
  }
}

const listOf = (...layers: { chainId: Digest }[]): string =>
  `${hexOf(digestOf(layers.map(({ chainId }) => chainId).join(' ')))}.json`;

const openReads = (state: string) => StartReads.open({ directory: state, warmMs: 60, settleMs: 1 });

/** A first start that reads `read` of a layer; resolves when its list is on the disk. */
async function recordStart(state: string, layer: ReadLayer, read: string) {
  const reads = await openReads(state);
  const followed = await reads.follow([layer]);
  assert.equal(followed.begin(), 0, 'nothing is known of the first start');
  await readFile(join(layer.path, read));
  followed.ended(() => [process.pid]);
  const list = join(state, listOf(layer));
  await until(() => readdir(state).then((all) => all.includes(listOf(layer))));
  await reads.close();
  return list;
}

test('what the first start has read is read ahead of a later one, after restarts too', async () => {
  const state = join(directory, 'restart');
  const layer = await makeLayer({ 'index.js': 20 * KiB, 'lib/unused.js': 300 * KiB });
  await recordStart(state, layer, 'index.js');
  const used = join(layer.path, 'index.js');
  const unused = join(layer.path, 'lib/unused.js');
  await drop(used);
  assert.equal(await cachedBytes(used), 0);
  const reads = await openReads(state);
  const followed = await reads.follow([layer]);
  assert.equal(followed.begin(), 20 * KiB);
  await until(async () => (await cachedBytes(used)) === 20 * KiB);
  assert.equal(await cachedBytes(unused), 0);
  assert.equal(followed.begin(), 0, 'one that has just been started finds its files in memory');
  await sleep(80);
  assert.equal(followed.begin(), 20 * KiB);
  await reads.close();
});

test('a layer that functions share is dropped once, and listed for each', async () => {
  const state = join(directory, 'shared');
  const shared = await makeLayer({ 'index.js': 12 * KiB, 'unused.js': 16 * KiB });
  const used = join(shared.path, 'index.js');
  const reads = await openReads(state);
  const owns = [await makeLayer({ a: 4 * KiB }), await makeLayer({ a: 4 * KiB })];
  for (const [index, own] of owns.entries()) {
    const followed = await reads.follow([shared, own]);
    if (index === 0) await readFile(used);
    assert.equal(await cachedBytes(used), 12 * KiB);
    followed.ended(() => [process.pid]);
    await until(() => readdir(state).then((all) => all.includes(listOf(shared, own))));
    assert.equal(followed.begin(), 12 * KiB);
  }
  await reads.close();
});

test('a host that starts again reads ahead of the first start, and its trace says so', async () => {
  const stateDirectory = await mkdtemp(join(directory, 'hatch-test-'));
  let host = await startHost({ config: { stateDirectory } });
  try {
    await host.deploy('functions/hello');
    await until(() =>
      readdir(join(stateDirectory, 'images/start-reads')).then((all) => all.length > 0),
    );
    await host.stop({ keepState: true });
    host = await startHost({ config: host.config });
    const first = await host.trace((await host.call('hello', {})).requestId);
    assert.ok((first.startRecord?.readAheadBytes ?? 0) > 0, JSON.stringify(first.startRecord));
  } finally {
    await host.stop();
  }
});

test('a list is of one content: another layer has its own', async () => {
  const state = join(directory, 'changed');
  const layer = await makeLayer({ a: 8 * KiB });
  await recordStart(state, layer, 'a');
  const reads = await openReads(state);
  const other = { ...layer, chainId: digestOf('changed') };
  assert.equal((await reads.follow([other])).begin(), 0);
  await reads.close();
});

test('a list that is damaged, or of a layer that is gone, does no harm', async () => {
  const state = join(directory, 'damaged');
  const layer = await makeLayer({ a: 8 * KiB });
  const list = await recordStart(state, layer, 'a');
  await rm(layer.path, { recursive: true });
  const reads = await openReads(state);
  const followed = await reads.follow([layer]);
  assert.equal(followed.begin(), 8 * KiB);
  await reads.close();
  await writeFile(list, '{"files":[{"path":5}]}');
  const again = await openReads(state);
  assert.equal((await again.follow([layer])).begin(), 0);
  await again.close();
  assert.deepEqual(await readdir(state), []);
});

test('of the layers below, what processes have mapped and touched is listed', async () => {
  const state = join(directory, 'below');
  const base = { path: '/', chainId: digestOf('base'), ofRuntime: true };
  const own = await makeLayer({ a: 4 * KiB });
  // Of a program that we have not mapped ourselves, as a zygote has not what its children load.
  using child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const { pid = 0 } = child;
  await until(async () => (await realpath(`/proc/${pid}/exe`)) !== process.execPath);
  const program = await realpath(`/proc/${pid}/exe`);
  const reads = await openReads(state);
  const followed = await reads.follow([base, own]);
  followed.ended(() => [pid]);
  await until(() => readdir(state).then((all) => all.length === 1));
  await reads.close();
  const list = await readFile(join(state, listOf(base, own)), 'utf8');
  const { files } = JSON.parse(list) as { files: { layer: number; path: string }[] };
  const found = (name: string) => files.find(({ path }) => `/${path}` === name);
  assert.equal(found(program)?.layer, 0, list);
  assert.equal(found(process.execPath), undefined);
});

test('a process with too many mappings, or too large ones, is looked at in part', async () => {
  const touched = async (bounds?: MappingBounds) =>
    [...(await touchedPages(process.pid, bounds)).values()].reduce(
      (sum, { size }) => sum + size,
      0,
    );
  assert.ok((await touched()) > 100, 'of this process all is looked at');
  assert.ok((await touched({ pagesMax: 100 })) <= 100);
  assert.equal(await touched({ listBytesMax: 10 }), 0);
});

test('an instance that is gone too soon leaves the list to the next', async () => {
  const state = join(directory, 'gone');
  const layer = await makeLayer({ a: 4 * KiB });
  const reads = await openReads(state);
  const followed = await reads.follow([layer]);
  followed.ended(() => []);
  await sleep(50);
  assert.deepEqual(await readdir(state), []);
  followed.ended(() => [process.pid]);
  await until(() => readdir(state).then((all) => all.length === 1));
  await reads.close();
});

test('nothing is written of a layer that is let go meanwhile', async () => {
  const state = join(directory, 'released');
  const layer = await makeLayer({ a: 8 * KiB });
  const reads = await openReads(state);
  const followed = await reads.follow([layer]);
  followed.ended(() => [process.pid]);
  followed.release();
  await sleep(50);
  await reads.close();
  assert.deepEqual(await readdir(state), []);
});

test('a list is bounded', async () => {
  const state = join(directory, 'bounded');
  const large = startReadBounds.bytes + MiB;
  const layer = await makeLayer({ large });
  const reads = await openReads(state);
  const followed = await reads.follow([layer]);
  await readFile(join(layer.path, 'large'));
  followed.ended(() => [process.pid]);
  await until(() => readdir(state).then((all) => all.length === 1));
  await reads.close();
  const again = await openReads(state);
  assert.equal((await again.follow([layer])).begin(), startReadBounds.bytes);
  await again.close();
});

test('a large file is read ahead whole, whatever the device reads at a time', async () => {
  const layer = await makeLayer({ large: 40 * MiB, empty: 0 });
  const path = join(layer.path, 'large');
  await drop(path);
  assert.equal(await readAhead(layer.path, 100 * MiB), 40 * MiB);
  await until(async () => (await cachedBytes(path)) === 40 * MiB);
});
