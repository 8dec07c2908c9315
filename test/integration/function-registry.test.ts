import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, beforeEach, test } from 'node:test';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { jetstreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { connect } from '@nats-io/transport-node';
import type { NatsConnection } from '@nats-io/transport-node';
import { startNatsServer } from '../../host/dispatch/nats-server.ts';
import type { NatsServer } from '../../host/dispatch/nats-server.ts';
import { parseManifest } from '../../host/function/manifest.ts';
import { FunctionRegistry } from '../../host/function/registry.ts';
import type { FunctionChange } from '../../host/function/view.ts';
import type { Digest } from '../../host/image/digest.ts';
import type { LayerBlob } from '../../host/image/layer-tar.ts';

let directory: string;
let server: NatsServer;
let connection: NatsConnection;
let registry: FunctionRegistry;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-registry-'));
  server = await startNatsServer({ stateDirectory: directory });
});

after(async () => {
  await connection.close();
  await server.stop();
  await rm(directory, { recursive: true });
});

beforeEach(async () => {
  await connection?.close();
  connection = await connectTo(server);
  const manager = await jetstreamManager(connection);
  for await (const name of manager.streams.names()) await manager.streams.delete(name);
  registry = await FunctionRegistry.open(connection);
});

test('a published version is reached by nobody until it is activated', async (context) => {
  const host = await watchingHost(context);
  const version = await publish('hello');
  assert.equal(version.version, '1');
  await settled(host);
  assert.equal(host.get('hello'), undefined);
  assert.throws(() => host.resolve('hello', '1'), { code: 'function.not_found' });
  const state = await registry.activate('hello', '1', 0);
  assert.deepEqual([state.latest, state.versions], ['1', ['1']]);
  await settled(host);
  assert.deepEqual(host.get('hello'), state);
  assert.deepEqual(host.resolve('hello'), version);
  assert.deepEqual(host.resolve('hello', '1'), version);
  assert.deepEqual(host.resolve('hello', 'latest'), version);
  const next = await publish('hello');
  await settled(host);
  assert.equal(host.resolve('hello').version, '1');
  assert.throws(() => host.resolve('hello', next.version), { code: 'version.not_found' });
});

test('a host that comes later gets what is deployed before watch resolves', async (context) => {
  await deploy('hello');
  await deploy('hello');
  await deploy('other');
  const changes: FunctionChange[] = [];
  const host = await watchingHost(context, changes);
  // In the order of their last change.
  assert.deepEqual(
    changes.map(({ name, state }) => [name, state?.latest]),
    [
      ['hello', '2'],
      ['other', '1'],
    ],
  );
  assert.equal(host.resolve('hello').version, '2');
  assert.equal(host.resolve('hello', '1').version, '1');
  assert.throws(() => host.resolve('nobody'), { code: 'function.not_found' });
});

test('the host that activates sees it at once, and hears of it once', async (context) => {
  const changes: FunctionChange[] = [];
  const host = await watchingHost(context, changes);
  const layer = await putLayer(host);
  const manifest = parseManifest({ name: 'hello', entry: 'handler.ts' });
  const { version } = await host.publish({ manifest, entryPath: '/function/index.cjs', layer });
  await host.activate('hello', version, 0);
  assert.equal(host.resolve('hello').version, version);
  await settled(host);
  assert.equal(changes.filter(({ name }) => name === 'hello').length, 1);
});

test('of two deploys at the same time one wins and the other is told', async () => {
  const [first, second] = [await publish('hello'), await publish('hello')];
  assert.deepEqual([first.version, second.version], ['1', '2']);
  const results = await Promise.allSettled([
    registry.activate('hello', first.version, 0),
    registry.activate('hello', second.version, 0),
  ]);
  const failed = results.filter((result) => result.status === 'rejected');
  assert.equal(failed.length, 1);
  assert.equal(failed[0]?.reason.code, 'deploy.conflict');
  const winner = results[0]?.status === 'fulfilled' ? '1' : '2';
  assert.equal((await registry.read('hello'))?.latest, winner);
});

test('many publishers get different numbers', async () => {
  const layer = await putLayer();
  const manifest = parseManifest({ name: 'hello', entry: 'handler.ts' });
  const versions = await Promise.all(
    Array.from({ length: 5 }, () =>
      registry.publish({ manifest, entryPath: '/function/index.cjs', layer }),
    ),
  );
  assert.deepEqual(versions.map(({ version }) => version).sort(), ['1', '2', '3', '4', '5']);
});

test('a discarded deploy leaves everything as it was, but its number is spent', async () => {
  const before = await deploy('hello');
  const failed = await publish('hello');
  await registry.discard('hello', failed.version);
  assert.deepEqual(await registry.read('hello'), before);
  await assert.rejects(registry.activate('hello', failed.version, before.revision), {
    code: 'version.not_found',
  });
  assert.equal((await publish('hello')).version, '3');
  await assert.rejects(registry.discard('hello', '1'), { code: 'deploy.conflict' });
});

test('rollback goes back step by step, or to a version or alias', async (context) => {
  const host = await watchingHost(context);
  for (let round = 0; round < 3; round++) await deploy('hello');
  assert.equal((await registry.rollback('hello')).latest, '2');
  assert.equal((await registry.rollback('hello')).latest, '1');
  await assert.rejects(registry.rollback('hello'), { code: 'version.not_found' });
  await registry.setAlias('hello', { alias: 'stable', version: '2' });
  assert.equal((await registry.rollback('hello', 'stable')).latest, '2');
  assert.equal((await registry.rollback('hello', '3')).latest, '3');
  await assert.rejects(registry.rollback('hello', '4'), { code: 'version.not_found' });
  await assert.rejects(registry.rollback('nobody'), { code: 'function.not_found' });
  await settled(host);
  assert.equal(host.resolve('hello').version, '3');
  assert.deepEqual(
    host.get('hello')?.history.map(({ version }) => version),
    ['1', '2', '3', '2', '1', '2', '3'],
  );
});

test('an alias can be set, moved and removed', async (context) => {
  const host = await watchingHost(context);
  await deploy('hello');
  await deploy('hello');
  const reached = async () => {
    await settled(host);
    return host.resolve('hello', 'live').version;
  };
  await registry.setAlias('hello', { alias: 'live', version: '1' });
  assert.equal(await reached(), '1');
  await registry.setAlias('hello', { alias: 'live', version: '2' });
  assert.equal(await reached(), '2');
  await registry.setAlias('hello', { alias: 'live', version: undefined });
  await assert.rejects(reached(), { code: 'version.not_found' });
  await assert.rejects(registry.setAlias('hello', { alias: 'live', version: '7' }), {
    code: 'version.not_found',
  });
  assert.throws(() => host.resolve('hello', 'constructor'), { code: 'version.not_found' });
});

test('a removed function is gone, and comes again with a new number', async (context) => {
  const changes: FunctionChange[] = [];
  const host = await watchingHost(context, changes);
  await deploy('hello');
  await deploy('hello');
  await registry.remove('hello');
  await settled(host);
  assert.equal(host.get('hello'), undefined);
  const last = changes.findLast(({ name }) => name === 'hello');
  assert.equal(last?.state, undefined);
  assert.equal(last?.previous?.latest, '2');
  assert.deepEqual(await registry.list(), []);
  await assert.rejects(registry.versions('hello'), { code: 'function.not_found' });
  await assert.rejects(registry.remove('hello'), { code: 'function.not_found' });
  assert.equal((await deploy('hello')).latest, '3');
  await settled(host);
  assert.equal(host.resolve('hello').version, '3');
});

test('who speaks for a tenant neither reads nor changes what is another', async () => {
  await deploy('hello');
  await deploy('hello');
  const before = await registry.read('hello', { owner: 'default' });
  assert.equal(before?.latest, '2');
  const owner = 'acme';
  const attempts = [
    () => registry.read('hello', { owner }),
    () => registry.versions('hello', { owner }),
    () => registry.rollback('hello', undefined, { owner }),
    () => registry.setAlias('hello', { alias: 'mine', version: '1', owner }),
    () => registry.remove('hello', { owner }),
  ];
  for (const attempt of attempts) await assert.rejects(attempt(), { code: 'request.forbidden' });
  assert.deepEqual(await registry.read('hello'), before);
  assert.equal(await registry.read('nobody', { owner }), undefined);
});

test('a removal leaves a version alone that is being deployed meanwhile', async () => {
  await deploy('hello');
  const next = await publish('hello');
  await registry.remove('hello');
  const state = await registry.activate('hello', next.version, 0);
  assert.deepEqual(state.versions, [next.version]);
  assert.deepEqual(await registry.versions('hello'), [next]);
});

test('list and versions tell what can be called', async () => {
  await deploy('b');
  await deploy('a');
  await deploy('a');
  await publish('a');
  const names = (await registry.list()).map(({ name, latest }) => [name, latest]);
  assert.deepEqual(names, [
    ['a', '2'],
    ['b', '1'],
  ]);
  const versions = await registry.versions('a');
  assert.deepEqual(
    versions.map(({ version }) => version),
    ['1', '2'],
  );
});

test('a layer comes back as it was put, also when it has many chunks', async () => {
  const bytes = randomBytes(3_000_001);
  const digest = digestOf(bytes);
  await registry.putLayer(Readable.from([bytes.subarray(0, 7), bytes.subarray(7)]), digest);
  assert.ok((await buffer(await registry.getLayer(digest))).equals(bytes));
  await registry.putLayer(bytes, digest);
  assert.ok((await buffer(await registry.getLayer(digest))).equals(bytes));
});

test('a layer with other bytes than its digest says is refused', async () => {
  const digest = digestOf(randomBytes(10));
  await assert.rejects(registry.putLayer(randomBytes(10), digest), { code: 'deploy.invalid' });
  await assert.rejects(registry.getLayer(digest), { code: 'image.not_found' });
  await assert.rejects(
    publish('hello', { digest, diffId: digest, sizeBytes: 10, mediaType: 'x' }),
    {
      code: 'deploy.invalid',
      message: new RegExp(`put layer "${digest}" first`),
    },
  );
});

test('a source that fails stores nothing', async () => {
  const digest = digestOf(randomBytes(10));
  const source = new Readable({
    read() {
      this.destroy(new Error('the disk is gone'));
    },
  });
  await assert.rejects(registry.putLayer(source, digest), /the disk is gone/);
  await assert.rejects(registry.getLayer(digest), { code: 'image.not_found' });
});

test('layers and unfinished deploys that nothing needs are collected after a grace', async () => {
  const kept = await putLayer();
  const { version } = await publish('hello', kept);
  await registry.activate('hello', version, 0);
  const unfinished = await putLayer();
  await publish('hello', unfinished);
  const orphan = await putLayer();
  assert.deepEqual(await registry.collect(), { versions: 0, layers: 0 });
  assert.deepEqual(await registry.collect({ layerGraceMs: 0 }), { versions: 0, layers: 1 });
  await assert.rejects(registry.getLayer(orphan.digest), { code: 'image.not_found' });
  const all = { layerGraceMs: 0, unfinishedGraceMs: 0 };
  assert.deepEqual(await registry.collect(all), { versions: 1, layers: 1 });
  await assert.rejects(registry.getLayer(unfinished.digest), { code: 'image.not_found' });
  assert.equal((await buffer(await registry.getLayer(kept.digest))).length, kept.sizeBytes);
  await registry.remove('hello');
  assert.deepEqual(await registry.collect(all), { versions: 0, layers: 1 });
});

test('a layer that is put again is young again', async () => {
  const bytes = randomBytes(100);
  await registry.putLayer(bytes, digestOf(bytes));
  await sleep(300);
  await registry.putLayer(bytes, digestOf(bytes));
  assert.deepEqual(await registry.collect({ layerGraceMs: 250 }), { versions: 0, layers: 0 });
  await sleep(300);
  assert.deepEqual(await registry.collect({ layerGraceMs: 250 }), { versions: 0, layers: 1 });
});

test('a watch goes on after the server was killed', async (context) => {
  const host = await watchingHost(context);
  await deploy('hello');
  const killed = server.pid() ?? assert.fail('no process');
  const reconnected = reconnectOf(connection);
  process.kill(killed, 'SIGKILL');
  await reconnected;
  const state = await deploy('hello');
  await until(() => host.get('hello')?.latest === state.latest);
  assert.equal(host.resolve('hello').version, '2');
});

test('a record that cannot be read is reported and the rest still works', async (context) => {
  const errors: Error[] = [];
  const host = await FunctionRegistry.open(connection);
  context.after(() => host.close());
  await host.watch({ onError: (error) => errors.push(error) });
  const kv = await new Kvm(connection).open('hatch_functions');
  await kv.put('pointer.broken', '{"name":"broken"}');
  await deploy('hello');
  await settled(host);
  assert.equal(host.resolve('hello').version, '1');
  assert.equal(errors.length, 1);
  assert.match(errors[0]?.message ?? '', /^Cannot read record "pointer\.broken"/);
});

async function connectTo({ url, token }: NatsServer): Promise<NatsConnection> {
  return connect({ servers: url, token, reconnectTimeWait: 50, maxReconnectAttempts: -1 });
}

async function watchingHost(
  context: TestContext,
  changes: FunctionChange[] = [],
): Promise<FunctionRegistry> {
  const own = await connectTo(server);
  const host = await FunctionRegistry.open(own);
  context.after(async () => {
    await host.close();
    await own.close();
  });
  await host.watch({ onChange: (change) => changes.push(change) });
  return host;
}

/** The watch delivers in order: when it has shown a mark, it has shown all that came before. */
async function settled(host: FunctionRegistry): Promise<void> {
  const name = `mark-${randomBytes(6).toString('hex')}`;
  const kv = await new Kvm(connection).open('hatch_functions');
  const pointer = { name, latest: '1', aliases: {}, versions: ['1'], history: [] };
  await kv.put(`pointer.${name}`, JSON.stringify(pointer));
  await until(() => host.get(name) !== undefined);
  await kv.delete(`pointer.${name}`);
  await until(() => host.get(name) === undefined);
}

async function deploy(name: string) {
  const revision = (await registry.read(name))?.revision ?? 0;
  const { version } = await publish(name);
  return registry.activate(name, version, revision);
}

async function publish(name: string, layer?: LayerBlob) {
  return registry.publish({
    manifest: parseManifest({ name, entry: 'handler.ts' }),
    entryPath: '/function/index.cjs',
    layer: layer ?? (await putLayer()),
  });
}

async function putLayer(target = registry): Promise<LayerBlob> {
  const bytes = randomBytes(1000);
  const digest = digestOf(bytes);
  await target.putLayer(bytes, digest);
  return { digest, diffId: digest, sizeBytes: bytes.length, mediaType: 'application/x-tar' };
}

function digestOf(bytes: Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

async function reconnectOf(client: NatsConnection): Promise<void> {
  for await (const { type } of client.status()) {
    if (type === 'reconnect') return;
  }
}

async function until(condition: () => boolean, timeoutMs = 20_000): Promise<void> {
  const deadlineMs = performance.now() + timeoutMs;
  while (!condition()) {
    assert.ok(performance.now() < deadlineMs, `not so after ${timeoutMs} ms`);
    await sleep(5);
  }
}
