import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { headers } from '@nats-io/nats-core';
import type { Msg, NatsConnection } from '@nats-io/nats-core';
import { connect } from '@nats-io/transport-node';
import { channels } from '../../host/base/channels.ts';
import type { CallRecord } from '../../host/base/channels.ts';
import { HatchError } from '../../host/base/errors.ts';
import { Dispatcher } from '../../host/dispatch/dispatcher.ts';
import type { CallRequest } from '../../host/pool/instance.ts';
import type { PoolFunction } from '../../host/pool/pool-function.ts';
import { startNatsServer } from '../../host/dispatch/nats-server.ts';
import type { NatsServer } from '../../host/dispatch/nats-server.ts';
import type { ErrorEnvelope } from '../../host/dispatch/reply.ts';
import { echo, FakePool, poolFunction } from '../support/fake-pool.ts';
import type { Handler } from '../support/fake-pool.ts';

let directory: string;
let server: NatsServer;
let caller: NatsConnection;
const cleanups: (() => Promise<void>)[] = [];

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-dispatcher-'));
  server = await startNatsServer({ stateDirectory: directory });
  caller = await connect({ servers: server.url, token: server.token });
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});
after(async () => {
  await caller.close();
  await server.stop();
  await rm(directory, { recursive: true });
});

interface Host {
  pool: FakePool;
  dispatcher: Dispatcher;
  warnings: { facts: Record<string, unknown>; message: string }[];
  /** How long the versions take to be fetched; 0 for those that are there. */
  fetched: { ms: number };
}

async function host(
  functions: { fn: PoolFunction; handler: Handler }[],
  { inFlightMax = 100 }: { inFlightMax?: number } = {},
): Promise<Host> {
  const pool = new FakePool();
  for (const { fn, handler } of functions) pool.handlers.set(fn.name, handler);
  const connection = await connect({ servers: server.url, token: server.token });
  const warnings: Host['warnings'] = [];
  const fetched = { ms: 0 };
  const dispatcher = new Dispatcher({
    connection,
    pool,
    resolve: (name, ref = '1') => {
      const found = functions.find(({ fn }) => fn.name === name && fn.version === ref)?.fn;
      return fetched.ms === 0 || found === undefined ? found : sleep(fetched.ms, found);
    },
    inFlightMax,
    log: { warn: (facts, message) => warnings.push({ facts, message }) },
  });
  dispatcher.start();
  await connection.flush();
  cleanups.push(async () => {
    await dispatcher.stop({ drainMs: 0 });
    await connection.close();
  });
  return { pool, dispatcher, warnings, fetched };
}

async function call(
  subject: string,
  options: { payload?: string; headers?: Record<string, string> } = {},
): Promise<Msg> {
  const all = headers();
  for (const [name, value] of Object.entries(options.headers ?? {})) all.set(name, value);
  const extra = options.headers === undefined ? {} : { headers: all };
  return await caller.request(`hatch.fn.${subject}`, options.payload ?? '', {
    timeout: 5000,
    ...extra,
  });
}

function errorOf(reply: Msg): ErrorEnvelope['error'] {
  const { error } = reply.json<ErrorEnvelope>();
  assert.equal(reply.headers?.get('Hatch-Request-Id'), error.requestId);
  assert.notEqual(reply.headers?.get('Nats-Service-Error'), '');
  return error;
}

async function nextRecords(count: number, work: () => Promise<unknown>): Promise<CallRecord[]> {
  const records: CallRecord[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const subscriber = (record: unknown): void => {
    if (records.push(record as CallRecord) === count) resolve();
  };
  channels.callEnd.subscribe(subscriber);
  cleanups.push(async () => {
    channels.callEnd.unsubscribe(subscriber);
  });
  await work();
  await promise;
  return records;
}

const throwing =
  (error: Error): Handler =>
  () => {
    throw error;
  };

test('a reply has the bytes of the result, and headers that say how it came about', async () => {
  await host([{ fn: poolFunction('hello'), handler: echo }]);
  const first = await call('hello', { payload: 'ä{"not": json' });
  assert.equal(first.string(), 'ä{"not": json');
  assert.equal(first.headers?.get('Hatch-Start'), 'parked');
  assert.match(first.headers?.get('Hatch-Request-Id') ?? '', /^[A-Za-z0-9]{22}$/);
  assert.match(first.headers?.get('Hatch-Duration-Us') ?? '', /^[0-9]+$/);
  const second = await call('hello.1');
  assert.equal(second.headers?.get('Hatch-Start'), 'hot');
  assert.notEqual(second.headers?.get('Hatch-Request-Id'), first.headers?.get('Hatch-Request-Id'));
});

test('the function sees subject, headers, attempt and the time that is left', async () => {
  let seen: CallRequest | undefined;
  const handler: Handler = (request) => {
    seen = request;
    return echo(request);
  };
  await host([{ fn: poolFunction('hello', { timeoutMs: 800 }), handler }]);
  const reply = await call('hello', {
    headers: { 'Hatch-Request-Id': 'my_id-1', 'Hatch-Timeout-Ms': '300', traceparent: '00-a-b-01' },
  });
  assert.equal(reply.headers?.get('Hatch-Request-Id'), 'my_id-1');
  assert.ok(seen !== undefined);
  assert.equal(seen.requestId, 'my_id-1');
  assert.equal(seen.subject, 'hatch.fn.hello');
  assert.equal(seen.attempt, 1);
  assert.deepEqual(seen.headers?.['traceparent'], ['00-a-b-01']);
  assert.ok(seen.timeoutMs > 200 && seen.timeoutMs <= 300, String(seen.timeoutMs));

  await call('hello', { headers: { 'Hatch-Timeout-Ms': '90000' } });
  assert.equal(seen.timeoutMs, 800);
  await call('hello');
  assert.equal(seen.headers, undefined);
});

test('an id that is none is replaced, and a time limit that is none is refused', async () => {
  await host([{ fn: poolFunction('hello'), handler: echo }]);
  const reply = await call('hello', { headers: { 'Hatch-Request-Id': 'a b/../c' } });
  assert.match(reply.headers?.get('Hatch-Request-Id') ?? '', /^[A-Za-z0-9]{22}$/);
  for (const value of ['soon', '0', '-1', '1.5']) {
    const refused = await call('hello', { headers: { 'Hatch-Timeout-Ms': value } });
    assert.equal(errorOf(refused).code, 'request.invalid');
    assert.equal(refused.headers?.get('Nats-Service-Error-Code'), '400');
  }
});

test('what is not deployed is named', async () => {
  await host([{ fn: poolFunction('hello'), handler: echo }]);
  const unknown = await call('nobody');
  assert.equal(errorOf(unknown).code, 'function.not_found');
  assert.equal(unknown.headers?.get('Nats-Service-Error-Code'), '404');
  assert.equal(unknown.headers?.has('Hatch-Start'), false);
  const version = errorOf(await call('hello.live'));
  assert.equal(version.code, 'version.not_found');
  assert.match(version.message, /"live" of function "hello"/);
});

test('an error of a function is an envelope with its facts, and the next call works', async () => {
  const oom = new HatchError('function.oom', 'The function ran out\r\nof memory', {
    details: { limitBytes: 128, peakBytes: 127, scope: 'cgroup' },
  });
  let handler = throwing(oom);
  await host([
    { fn: poolFunction('hello'), handler: (request, called) => handler(request, called) },
  ]);
  const failed = await call('hello');
  assert.deepEqual(errorOf(failed), {
    code: 'function.oom',
    message: 'The function ran out\r\nof memory',
    requestId: failed.headers?.get('Hatch-Request-Id'),
    details: { limitBytes: 128, peakBytes: 127, scope: 'cgroup' },
  });
  assert.equal(failed.headers?.get('Nats-Service-Error'), 'The function ran out of memory');
  assert.equal(failed.headers?.get('Nats-Service-Error-Code'), '507');
  handler = echo;
  assert.equal((await call('hello', { payload: 'x' })).string(), 'x');
});

test('what nobody foresaw is an internal.bug, answered and logged', async () => {
  const { warnings } = await host([
    { fn: poolFunction('hello'), handler: throwing(new TypeError('x is not a function')) },
  ]);
  assert.equal(errorOf(await call('hello')).code, 'internal.bug');
  assert.equal(warnings[0]?.facts['code'], 'internal.bug');
});

test('a busy pool and a host at its limit say so, and when to try again', async () => {
  const gate = Promise.withResolvers<void>();
  const handler: Handler = async (request) => {
    await gate.promise;
    return echo(request);
  };
  const fn = poolFunction('slow', { instancesMax: 1 });
  const { dispatcher } = await host([{ fn, handler }], { inFlightMax: 2 });
  const first = call('slow');
  while (dispatcher.inFlight < 1) await caller.flush();
  const busy = await call('slow');
  assert.equal(errorOf(busy).code, 'host.busy');
  assert.equal(busy.headers?.get('Nats-Service-Error-Code'), '429');
  assert.equal(busy.headers?.get('Retry-After-Ms'), '7');

  const other = await host([{ fn: poolFunction('one'), handler }], { inFlightMax: 0 });
  await dispatcher.stop({ drainMs: 0 });
  const refused = await call('one');
  assert.match(errorOf(refused).message, /Cannot admit the call: 0 are under way/);
  assert.match(refused.headers?.get('Retry-After-Ms') ?? '', /^[0-9]+$/);
  assert.equal(other.pool.instances.length, 0);
  assert.equal(errorOf(await first).code, 'host.draining');
  gate.resolve();
});

test('a result over the limit of the server is refused with both sizes', async () => {
  const handler: Handler = () => ({ payload: Buffer.alloc(1024 * 1024), encoding: 'bytes' });
  await host([{ fn: poolFunction('big'), handler }]);
  const error = errorOf(await call('big'));
  assert.equal(error.code, 'function.result_too_large');
  assert.equal(error.details?.['resultBytes'], 1024 * 1024);
  const limit = Number(error.details?.['limitBytes']);
  assert.ok(limit < 1024 * 1024 && limit > 1024 * 1024 - 200, String(limit));
});

test('a result that just fits goes through', async () => {
  const bytes = 1024 * 1024 - 200;
  const handler: Handler = () => ({ payload: Buffer.alloc(bytes, 1), encoding: 'bytes' });
  await host([{ fn: poolFunction('big'), handler }]);
  assert.equal((await call('big')).data.length, bytes);
});

test('a message without a reply subject runs all the same, its error is logged', async () => {
  const handler = throwing(new HatchError('function.threw', 'no luck'));
  const { warnings } = await host([{ fn: poolFunction('job'), handler }]);
  const [record] = await nextRecords(1, async () => caller.publish('hatch.fn.job', 'x'));
  assert.deepEqual(record?.error, { code: 'function.threw', message: 'no luck' });
  assert.equal(warnings[0]?.facts['requestId'], record?.requestId);
  assert.match(warnings[0]?.message ?? '', /no luck/);
});

test('fetching a version takes from the time of the call; too late, it does not run', async () => {
  const fn = poolFunction('far', { timeoutMs: 300 });
  const handled: number[] = [];
  const handler: Handler = (request) => {
    handled.push(request.timeoutMs);
    return echo(request);
  };
  const { fetched } = await host([{ fn, handler }]);
  fetched.ms = 100;
  await call('far');
  assert.ok((handled[0] ?? 300) <= 210, String(handled[0]));
  fetched.ms = 310;
  assert.equal(errorOf(await call('far')).code, 'function.timeout');
  assert.equal(handled.length, 1);
});

test('an instance found in the moment of a cancellation goes back unused', async () => {
  const { dispatcher, pool } = await host([{ fn: poolFunction('late'), handler: echo }]);
  const found = Promise.withResolvers<void>();
  const acquire = pool.acquire.bind(pool);
  pool.acquire = (fn) => found.promise.then(() => acquire(fn));
  const reply = call('late', { headers: { 'Hatch-Request-Id': 'r1' } });
  while (dispatcher.inFlight < 1) await caller.flush();
  assert.equal(dispatcher.cancel('r1'), 1);
  found.resolve();
  assert.equal(errorOf(await reply).code, 'request.cancelled');
  assert.deepEqual([pool.released.length, pool.instances[0]?.calls], [1, 0]);
});

test('two hosts in the queue group serve each message once', async () => {
  const served = new Map<string, number>();
  const counting =
    (name: string): Handler =>
    (request) => {
      const key = Buffer.from(request.payload).toString();
      served.set(key, (served.get(key) ?? 0) + 1);
      return { payload: Buffer.from(name), encoding: 'bytes' };
    };
  const fn = poolFunction('hello', { instancesMax: 500 });
  await host([{ fn, handler: counting('a') }], { inFlightMax: 500 });
  await host([{ fn, handler: counting('b') }], { inFlightMax: 500 });
  const replies = await Promise.all(
    Array.from({ length: 200 }, (_, index) => call('hello', { payload: String(index) })),
  );
  assert.equal(served.size, 200);
  assert.deepEqual([...new Set(served.values())], [1]);
  assert.deepEqual([...new Set(replies.map((reply) => reply.string()))].toSorted(), ['a', 'b']);
});

test('stopping lets calls end, and gives their instances back', async () => {
  const gate = Promise.withResolvers<void>();
  const handler: Handler = async (request) => {
    await gate.promise;
    return echo(request);
  };
  const { dispatcher, pool } = await host([{ fn: poolFunction('slow'), handler }]);
  const reply = call('slow', { payload: 'done' });
  while (dispatcher.inFlight < 1) await caller.flush();
  const stopped = dispatcher.stop({ drainMs: 5000 });
  gate.resolve();
  assert.equal((await reply).string(), 'done');
  await stopped;
  assert.equal(pool.released.length, 1);
  await assert.rejects(call('slow'), /no responders/i);
});

test('a call that outlives the drain is refused, its instance given back later', async () => {
  const gate = Promise.withResolvers<void>();
  const handler: Handler = async (request) => {
    await gate.promise;
    return echo(request);
  };
  const { dispatcher, pool } = await host([{ fn: poolFunction('slow'), handler }]);
  const reply = call('slow');
  while (dispatcher.inFlight < 1) await caller.flush();
  await dispatcher.stop({ drainMs: 20 });
  assert.equal(errorOf(await reply).code, 'host.draining');
  assert.equal(pool.released.length, 0);
  gate.resolve();
  await new Promise(setImmediate);
  assert.equal(pool.released.length, 1);
});

test('a record tells path, times and sizes, with the copy-ups found after the reply', async () => {
  const copyUp = { path: '/function/ledger.db', bytesCopied: 8 * 1024 * 1024 };
  const { pool } = await host([{ fn: poolFunction('ledger'), handler: echo }]);
  const [first] = await nextRecords(1, async () => {
    const reply = await call('ledger', { payload: 'four', headers: { traceparent: '00-a-b-01' } });
    assert.equal(reply.string(), 'four');
    pool.instances[0]?.copied.push(copyUp);
  });
  assert.ok(first !== undefined);
  assert.deepEqual(first.copyUps, [copyUp]);
  assert.equal(first.start, 'parked');
  assert.equal(first.startRecord?.path, 'parked');
  assert.equal(first.traceparent, '00-a-b-01');
  assert.deepEqual([first.requestBytes, first.replyBytes], [4, 4]);
  assert.ok(first.dispatchedNs !== undefined && first.receivedNs < first.dispatchedNs);
  assert.ok(first.dispatchedNs < first.endNs);
  const [second] = await nextRecords(1, () => call('ledger'));
  assert.deepEqual(second?.copyUps, []);
  assert.equal(second?.startRecord, undefined);
});

test('the reply is written before the call is cleared away', async (context) => {
  const { pool } = await host([{ fn: poolFunction('brief'), handler: echo }]);
  const { mock } = context.mock.method(Socket.prototype, 'write');
  let repliedWhenReleased: boolean | undefined;
  const release = pool.release.bind(pool);
  pool.release = (acquired) => {
    const written = mock.calls.map(({ arguments: [chunk] }) => Buffer.from(chunk).toString());
    repliedWhenReleased = written.some((text) => text.startsWith('HPUB'));
    release(acquired);
  };
  await call('brief');
  assert.equal(repliedWhenReleased, true);
});

test('an instance that is used once is looked at before it is given back', async () => {
  let copiedWhenReleased: number | undefined;
  const fn = poolFunction('once', { reuse: 'never' });
  let copy = (): void => {};
  const copying: Handler = (request) => {
    copy();
    return echo(request);
  };
  const { pool } = await host([{ fn, handler: copying }]);
  copy = () => pool.instances[0]?.copied.push({ path: '/function/x', bytesCopied: 1 });
  const release = pool.release.bind(pool);
  pool.release = (acquired) => {
    copiedWhenReleased = pool.instances[0]?.copied.length;
    release(acquired);
  };
  const [record] = await nextRecords(1, () => call('once'));
  assert.equal(record?.copyUps.length, 1);
  await new Promise(setImmediate);
  assert.equal(copiedWhenReleased, 0);
});
