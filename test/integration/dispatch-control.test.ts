import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { headers } from '@nats-io/nats-core';
import type { Msg, NatsConnection } from '@nats-io/nats-core';
import { connect } from '@nats-io/transport-node';
import type { CallRecord, LogRecord } from '../../host/base/channels.ts';
import { HatchError } from '../../host/base/errors.ts';
import type { ErrorCode } from '../../host/base/errors.ts';
import { ControlClient } from '../../host/dispatch/control-client.ts';
import { startNatsServer } from '../../host/dispatch/nats-server.ts';
import type { NatsServer } from '../../host/dispatch/nats-server.ts';
import { digestOf } from '../../host/image/digest.ts';
import type { LayerBlob } from '../../host/image/layer-tar.ts';
import { startFakeHost } from '../support/fake-host.ts';
import type { FakeHost } from '../support/fake-host.ts';
import { poolFunction } from '../support/fake-pool.ts';

let directory: string;
let server: NatsServer;
let caller: NatsConnection;
let client: ControlClient;
const cleanups: (() => Promise<void>)[] = [];

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-control-'));
  server = await startNatsServer({ stateDirectory: directory });
  caller = await connect({ servers: server.url, token: server.token });
  client = new ControlClient(caller);
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});
after(async () => {
  await caller.close();
  await server.stop();
  await rm(directory, { recursive: true });
});

async function host(name: string): Promise<FakeHost> {
  const started = await startFakeHost(name, server);
  cleanups.push(started.stop);
  return started;
}

async function uploadLayer({ registry }: FakeHost): Promise<LayerBlob> {
  const bytes = randomBytes(64);
  const digest = digestOf(bytes);
  await registry.putLayer(bytes, digest);
  const mediaType = 'application/vnd.oci.image.layer.v1.tar+gzip';
  return { digest, diffId: digest, sizeBytes: bytes.length, mediaType };
}

async function deploy(on: FakeHost, name: string, layer?: LayerBlob) {
  return await client.ask('deploy', {
    manifest: { name, entry: 'index.ts' },
    entryPath: '/function/index.cjs',
    layer: layer ?? (await uploadLayer(on)),
  });
}

async function versionServing(subject: string): Promise<string> {
  const reply = await caller.request(`hatch.fn.${subject}`, '', { timeout: 5000 });
  return reply.string();
}

/** Functions that answer with their version. */
function answerVersions(on: FakeHost, name: string): void {
  on.pool.handlers.set(name, (_request, fn) => ({
    payload: Buffer.from(fn.version),
    encoding: 'bytes',
  }));
}

function hasCode(code: ErrorCode, message: RegExp): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof HatchError);
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };
}

async function until(condition: () => boolean): Promise<void> {
  const endMs = Date.now() + 5000;
  while (!condition()) {
    assert.ok(Date.now() < endMs, 'waited 5 s');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test('without a host a request fails at once and says what to do', async () => {
  await assert.rejects(client.ask('ls', {}), hasCode('host.nats_unavailable', /hatch up/));
  await assert.rejects(client.askAll('status', {}), hasCode('host.nats_unavailable', /hatch up/));
});

test('a deployed function can be called, listed, aliased, rolled back and removed', async () => {
  const one = await host('one');
  answerVersions(one, 'life');
  const first = await deploy(one, 'life');
  assert.deepEqual([first.version, first.previousVersion], ['1', undefined]);
  assert.equal(first.startRecord.functionName, 'life');
  assert.equal(await versionServing('life'), '1');
  const second = await deploy(one, 'life');
  assert.deepEqual([second.version, second.previousVersion], ['2', '1']);
  assert.equal(await versionServing('life'), '2');
  assert.equal(await versionServing('life.1'), '1');

  assert.deepEqual(await client.ask('alias', { name: 'life', alias: 'live', version: '1' }), {
    aliases: { live: '1' },
  });
  assert.equal(await versionServing('life.live'), '1');
  const { functions } = await client.ask('ls', {});
  const { deployedAtMs, ...listed } = functions.find(({ name }) => name === 'life') ?? {};
  assert.deepEqual(listed, { name: 'life', latest: '2', versions: 2, aliases: { live: '1' } });
  assert.ok(Math.abs(Date.now() - Number(deployedAtMs)) < 10_000);
  const { versions } = await client.ask('versions', { name: 'life' });
  assert.deepEqual(
    versions.map(({ version, isLatest, aliases, layerBytes }) => [
      version,
      isLatest,
      aliases,
      layerBytes,
    ]),
    [
      ['1', false, ['live'], 64],
      ['2', true, [], 64],
    ],
  );

  assert.deepEqual(await client.ask('rollback', { name: 'life' }), { from: '2', latest: '1' });
  await until(() => one.pool.retired.includes('life@2'));
  assert.equal(await versionServing('life'), '1');
  await client.ask('rm', { name: 'life' });
  await until(() => one.pool.retired.includes('life@1'));
  assert.equal(one.leased.size, 0);
  const gone = await caller.request('hatch.fn.life', '', { timeout: 5000 });
  assert.equal(gone.headers?.get('Nats-Service-Error-Code'), '404');
});

test('a deploy that does not load changes nothing and says why', async () => {
  const one = await host('one');
  answerVersions(one, 'stable');
  await deploy(one, 'stable');
  const cause = new HatchError('function.load_failed', 'index.ts:3:7: boom', {
    details: { stack: 'at index.ts:3:7' },
  });
  one.pool.broken.set('stable@2', cause);
  await assert.rejects(deploy(one, 'stable'), (error) => {
    hasCode('deploy.failed', /Cannot deploy "stable": index\.ts:3:7: boom/)(error);
    assert.ok(error instanceof HatchError);
    assert.equal(error.details['reason'], 'function.load_failed');
    assert.equal(error.details['stack'], 'at index.ts:3:7');
    return true;
  });
  assert.equal(await versionServing('stable'), '1');
  assert.deepEqual([...one.leased], ['/layers/stable@1']);
  const { versions } = await client.ask('versions', { name: 'stable' });
  assert.deepEqual(
    versions.map(({ version }) => version),
    ['1'],
  );
  assert.equal((await deploy(one, 'stable')).version, '3');
  assert.deepEqual(one.warnings, []);
});

test('of two deploys at the same time one wins, the other is a conflict', async () => {
  const one = await host('one');
  answerVersions(one, 'race');
  const layers = [await uploadLayer(one), await uploadLayer(one)];
  const results = await Promise.allSettled(layers.map((layer) => deploy(one, 'race', layer)));
  const failed = results.filter((result) => result.status === 'rejected');
  const done = results.filter((result) => result.status === 'fulfilled');
  assert.deepEqual([done.length, failed.length], [1, 1]);
  hasCode('deploy.conflict', /deploy again/)(failed[0]?.reason);
  assert.equal(await versionServing('race'), done[0]?.value.version);
});

test('a host with the old version makes the new one ready, then lets the old go', async () => {
  const one = await host('one');
  const two = await host('two');
  for (const each of [one, two]) answerVersions(each, 'both');
  await deploy(one, 'both');
  for (const each of [one, two]) {
    await until(() => each.leased.has('/layers/both@1'));
    if (each.pool.instances.length === 0) await each.pool.prepare(poolFunction('both'));
    // Until it works, calls of this host stay with what it has.
    each.pool.broken.set('both@2', new HatchError('host.start_failed', 'no room'));
  }
  const answers = Promise.allSettled([deploy(one, 'both')]);
  const [failed] = await answers;
  assert.equal(failed.status, 'rejected');

  const deploying = [one, two].map(({ pool }) => pool);
  for (const pool of deploying) {
    pool.broken.clear();
    pool.broken.set('both@3', new HatchError('host.start_failed', 'no room yet'));
  }
  const version = await one.registry.publish({
    manifest: one.registry.resolve('both').manifest,
    entryPath: '/function/index.cjs',
    layer: await uploadLayer(one),
  });
  assert.equal(version.version, '3');
  const state = await one.registry.read('both');
  await one.registry.activate('both', '3', state?.revision ?? 0);
  await until(() => [one, two].every(({ warnings }) => warnings.some((text) => /yet/.test(text))));
  for (let index = 0; index < 10; index++) assert.equal(await versionServing('both'), '1');
  for (const pool of deploying) pool.broken.clear();
  await until(() => [one, two].every(({ pool }) => pool.retired.includes('both@1')));
  for (let index = 0; index < 10; index++) assert.equal(await versionServing('both'), '3');
  for (const each of [one, two]) {
    const leased = [...each.leased].filter((path) => path.includes('both'));
    assert.deepEqual(leased, ['/layers/both@3']);
  }
});

test('a trace is found on whichever host has it', async () => {
  await host('one');
  const two = await host('two');
  const record: CallRecord = {
    requestId: 'r1',
    functionName: 'life',
    functionVersion: '1',
    instanceId: undefined,
    subject: 'hatch.fn.life',
    traceparent: undefined,
    start: undefined,
    startRecord: undefined,
    receivedNs: 1,
    dispatchedNs: undefined,
    endNs: 2,
    requestBytes: 3,
    replyBytes: 4,
    error: { code: 'host.busy', message: 'full' },
    copyUps: [{ path: '/function/x', bytesCopied: 5 }],
  };
  two.traces.set('r1', record);
  assert.deepEqual(await client.askAny('trace', { requestId: 'r1' }), {
    host: 'two',
    reply: { record },
  });
  await assert.rejects(
    client.askAny('trace', { requestId: 'r2' }),
    hasCode('trace.not_found', /request "r2"/),
  );
});

test('logs, status and checks come from every host', async () => {
  const one = await host('one');
  const two = await host('two');
  const line = (text: string): LogRecord => ({
    timeMs: 1,
    functionName: 'life',
    functionVersion: '1',
    instanceId: 'i1',
    requestId: undefined,
    stream: 'stdout',
    text,
  });
  one.logs.push(line('from one'));
  two.logs.push(...Array.from({ length: 4000 }, (_, index) => line(`${index} ${'x'.repeat(200)}`)));
  const logs = await client.askAll('logs', { name: 'life', limit: 10_000 });
  const texts = new Map(
    logs.map((answer) => [
      answer.host,
      'reply' in answer ? answer.reply.records.map(({ text }) => text) : [],
    ]),
  );
  assert.deepEqual(texts.get('one'), ['from one']);
  const kept = texts.get('two') ?? [];
  assert.match(kept.at(-1) ?? '', /^3999 /);
  assert.ok(kept.length > 1000 && kept.length < 4000, 'the oldest are left out to fit a message');

  const status = await client.askAll('status', {});
  assert.deepEqual(status.map((answer) => answer.host).toSorted(), ['one', 'two']);
  const checks = await client.askAll('doctor', {});
  assert.deepEqual(
    checks.flatMap((answer) => ('reply' in answer ? answer.reply.checks : [])).length,
    2,
  );
  const images = await client.askAll('image.import', { directory: '/nowhere' });
  for (const answer of images)
    assert.ok('error' in answer && /no layout/.test(answer.error.message));
});

test('what is no JSON, or not the request of its verb, is refused with the reason', async () => {
  await host('one');
  const answer = async (verb: string, body: string) => {
    const reply = await caller.request(`hatch.ctl.${verb}`, body, { timeout: 5000 });
    assert.equal(reply.headers?.get('Nats-Service-Error-Code'), '400');
    return reply.json<{ error: { code: string; message: string } }>().error;
  };
  assert.match((await answer('ls', '{')).message, /Cannot read "ls": no JSON/);
  const wrong = await answer('versions', '{"name":"No Name"}');
  assert.equal(wrong.code, 'request.invalid');
  assert.match(wrong.message, /must be the name of a function.*name/);
  const manifest = await answer(
    'deploy',
    JSON.stringify({
      manifest: { name: 'x', entry: 'i.ts', memoryMB: 1 },
      entryPath: '/function/index.cjs',
      layer: {
        digest: digestOf('x'),
        diffId: digestOf('x'),
        sizeBytes: 1,
        mediaType: 'application/x-tar',
      },
    }),
  );
  assert.equal(manifest.code, 'deploy.invalid');
  assert.match(manifest.message, /memoryMB/);
});

async function callAs(requestId: string): Promise<Msg> {
  const all = headers();
  all.set('Hatch-Request-Id', requestId);
  return await caller.request('hatch.fn.endless', '', { headers: all, timeout: 5000 });
}

async function cancel(requestId: string): Promise<number> {
  const answers = await client.askAll('cancel', { requestId });
  return answers.reduce((sum, one) => sum + ('reply' in one ? one.reply.cancelled : 0), 0);
}

test('a cancellation finds the call on whatever host it runs', async () => {
  const hosts = [await host('one'), await host('two')] as const;
  for (const { pool } of hosts) pool.handlers.set('endless', () => new Promise(() => undefined));
  const sum = (counted: (of: FakeHost) => number) => counted(hosts[0]) + counted(hosts[1]);
  await deploy(hosts[0], 'endless');
  const ids = ['a', 'b', 'c', 'd'];
  const replies = new Map(ids.map((id) => [id, callAs(id)]));
  await until(
    () => sum(({ pool }) => pool.instances.filter(({ calls }) => calls > 0).length) === 4,
  );
  for (const id of ids) {
    assert.equal(await cancel(id), 1);
    const reply = await replies.get(id);
    assert.equal(reply?.headers?.get('Nats-Service-Error-Code'), '499');
    assert.equal(await cancel(id), 0);
  }
  assert.equal(
    sum(({ pool }) => pool.released.length),
    4,
  );
});
