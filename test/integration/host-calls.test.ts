/** What goes in and what comes out: payloads, output, concurrency, keep-alive, limits, traces. */
import assert from 'node:assert/strict';
import { before, suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LogRecord } from '../../host/base/channels.ts';
import { hostForFile } from '../support/file-host.ts';

const host = hostForFile();

const calls = `
import { execFileSync, spawn } from 'node:child_process';
import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const deeds: Record<string, (event: any, context: any) => unknown> = {
  typeOf: (event) => event === undefined ? 'undefined' : event.constructor.name,
  context: (event, { signal, ...rest }) => ({ ...rest, aborted: signal.aborted }),
  big: (event) => 'x'.repeat(event.bytes),
  bigBytes: (event) => new Uint8Array(event.bytes).fill(7),
  buffer: () => new Uint8Array([1, 2, 3]).buffer,
  nothing: () => undefined,
  nil: () => null,
  text: () => 'täxt',
  say: (event) => { console.log('out', event.word); console.error('err', event.word); },
  spawnEcho: (event) => {
    execFileSync('/bin/sh', ['-c', 'echo child ' + event.word], { stdio: 'inherit' });
  },
  raw: (event) => { writeSync(1, 'raw ' + event.word + '\\n'); },
  sayLater: async (event) => {
    for (let line = 0; line < 20; line++) { console.log(event.word, line); await sleep(1); }
  },
  sleep: async (event) => { await sleep(event.ms); return process.pid; },
  pid: () => process.pid,
};

export const handler = (event: any, context: any) =>
  event instanceof Uint8Array || event === undefined || !(event.do in deeds)
    ? {
        type: deeds.typeOf(event, context),
        event: event instanceof Uint8Array ? [...event.subarray(0, 16)] : event,
        length: event?.length,
      }
    : deeds[event.do](event, context);
`;

interface Seen {
  type: string;
  event: unknown;
  length: number;
}

async function textOf(name: string, requestId: string, enough: RegExp): Promise<string> {
  const deadline = performance.now() + 3000;
  for (;;) {
    const records: LogRecord[] = await host().logs(name, requestId);
    const text = records.map((record) => record.text).join('');
    if (enough.test(text)) return text;
    assert.ok(performance.now() < deadline, `No ${String(enough)} in "${text}"`);
    await sleep(20);
  }
}

suite('calls', () => {
  before(async () => {
    await host().deploy({ manifest: { name: 'calls' }, 'handler.ts': calls });
    await host().deploy({
      manifest: { name: 'many', concurrency: 8, instancesMax: 1 },
      'handler.ts': calls,
    });
  });

  const see = async (payload?: unknown, headers: Record<string, string> = {}): Promise<Seen> =>
    (await host().call('calls', payload, { headers })).json<Seen>();

  test('JSON arrives parsed, anything else as bytes, nothing as undefined', async () => {
    assert.equal((await see({ a: [1] })).type, 'Object');
    assert.deepEqual((await see({ a: [1] })).event, { a: [1] });
    assert.equal((await see('text')).type, 'String');
    assert.equal((await see()).type, 'undefined');
    const bytes = await see(new Uint8Array([0, 255, 10, 128]));
    assert.deepEqual(bytes, { type: 'Uint8Array', event: [0, 255, 10, 128], length: 4 });
    const halfJson = await see(Buffer.from('{"half":'));
    assert.equal(halfJson.type, 'Uint8Array');
    const declared = await see(Buffer.from('{}'), { 'Content-Type': 'application/octet-stream' });
    assert.deepEqual(declared, { type: 'Uint8Array', event: [123, 125], length: 2 });
  });

  test('results go back as JSON, as bytes, or as nothing', async () => {
    const bytesOf = async (deed: string) => (await host().call('calls', { do: deed })).bytes;
    assert.equal((await bytesOf('nothing')).length, 0);
    assert.equal(Buffer.from(await bytesOf('nil')).toString(), 'null');
    assert.equal(Buffer.from(await bytesOf('text')).toString(), '"täxt"');
    assert.deepEqual(new Uint8Array(await bytesOf('buffer')), new Uint8Array([1, 2, 3]));
    const reply = await host().call('calls', { do: 'bigBytes', bytes: 1000 });
    assert.deepEqual(new Uint8Array(reply.bytes), new Uint8Array(1000).fill(7));
  });

  test('payloads go up to what the server takes; a result beyond that is refused', async () => {
    const serverMax = host().connection.info?.max_payload ?? 0;
    assert.ok(serverMax >= 1_000_000);
    const most = new Uint8Array(serverMax - 1000).fill(200);
    assert.equal((await see(most)).length, most.length);
    const large = await host().call('calls', { do: 'bigBytes', bytes: serverMax - 1000 });
    assert.equal(large.bytes.length, serverMax - 1000);
    for (const bytes of [serverMax, 20_000_000, 41_943_041]) {
      const { error } = await host().call('calls', { do: 'bigBytes', bytes });
      assert.equal(error?.code, 'function.result_too_large', `${bytes} bytes`);
    }
    assert.equal((await host().call('calls', { do: 'pid' })).start, 'hot');
  });

  test('the context says what the call is', async () => {
    const requestId = 'my-request-1';
    const reply = await host().call(
      'calls',
      { do: 'context' },
      { requestId, headers: { 'X-Test': 'yes', 'Hatch-Timeout-Ms': '1234' } },
    );
    const context = reply.json<Record<string, unknown>>();
    assert.equal(reply.requestId, requestId);
    assert.equal(context['requestId'], requestId);
    assert.equal(context['awsRequestId'], requestId);
    assert.equal(context['functionName'], 'calls');
    assert.equal(context['functionVersion'], '1');
    assert.equal(context['subject'], 'hatch.fn.calls');
    assert.equal(context['attempt'], 1);
    assert.equal(context['aborted'], false);
    assert.deepEqual((context['headers'] as Record<string, unknown>)['X-Test'], ['yes']);
  });

  test('output of the console and of child processes is logged with its request', async () => {
    const said = await host().call('calls', { do: 'say', word: 'one' });
    assert.match(await textOf('calls', said.requestId, /err one\n/), /out one\n/);
    const streams = (await host().logs('calls', said.requestId)).map(({ stream }) => stream);
    assert.deepEqual(new Set(streams), new Set(['stdout', 'stderr']));
    const child = await host().call('calls', { do: 'spawnEcho', word: 'two' });
    assert.equal(child.error, undefined, child.error?.message);
    await textOf('calls', child.requestId, /^child two\n$/);
    const raw = await host().call('calls', { do: 'raw', word: 'three' });
    await textOf('calls', raw.requestId, /^raw three\n$/);
  });

  test('calls that run at once on one instance keep their output apart', async () => {
    const words = Array.from({ length: 8 }, (_, index) => `word-${index}`);
    const replies = await Promise.all(
      words.map((word) => host().call('many', { do: 'sayLater', word })),
    );
    assert.equal((await host().instancesOf('many')).length, 1);
    for (const [index, reply] of replies.entries()) {
      const text = await textOf('many', reply.requestId, / 19\n/);
      const expected = Array.from({ length: 20 }, (_, line) => `word-${index} ${line}\n`);
      assert.equal(text, expected.join(''));
    }
  });

  test('an instance runs as many calls at once as its function says', async () => {
    await host().call('many', { do: 'pid' });
    const started = performance.now();
    const sleeps = Array.from({ length: 8 }, () => host().call('many', { do: 'sleep', ms: 200 }));
    const pids = await Promise.all(sleeps.map(async (reply) => (await reply).json<number>()));
    assert.equal(new Set(pids).size, 1);
    assert.ok(performance.now() - started < 1000, 'they ran one after the other');
  });

  test('50 calls at once never get more instances than the function may have', async () => {
    await host().deploy({ manifest: { name: 'few', instancesMax: 3 }, 'handler.ts': calls });
    let most = 0;
    let done = false;
    const watch = (async () => {
      while (!done) most = Math.max(most, (await host().instancesOf('few')).length);
    })();
    const replies = await Promise.all(
      Array.from({ length: 50 }, () => host().call('few', { do: 'sleep', ms: 20 })),
    );
    done = true;
    await watch;
    for (const reply of replies) assert.equal(reply.error, undefined, reply.error?.message);
    assert.ok(most >= 2 && most <= 3, `${most} instances`);
  });

  test('after its keep-alive an idle instance ends, and the next call starts another', async () => {
    await host().deploy({ manifest: { name: 'brief', keepAliveMs: 300 }, 'handler.ts': calls });
    const first = (await host().call('brief', { do: 'pid' })).start;
    assert.equal(first, 'hot', 'prepared by the deploy');
    const deadline = performance.now() + 4000;
    while ((await host().instancesOf('brief')).length > 0) {
      assert.ok(performance.now() < deadline, 'it lives on');
      await sleep(50);
    }
    assert.notEqual((await host().call('brief', { do: 'pid' })).start, 'hot');
  });

  test('a function that is never reused gets a new instance for each call', async () => {
    await host().deploy({ manifest: { name: 'once', reuse: 'never' }, 'handler.ts': calls });
    await host().call('once', { do: 'pid' });
    const starts = [];
    for (let turn = 0; turn < 3; turn++)
      starts.push((await host().call('once', { do: 'pid' })).start);
    assert.ok(
      starts.every((start) => start !== 'hot'),
      starts.join(),
    );
  });

  test('the trace of a cold call lists the steps of its start', async () => {
    await host().deploy({ manifest: { name: 'cold', reuse: 'never' }, 'handler.ts': calls });
    await host().call('cold', { do: 'pid' });
    const { requestId } = await host().call('cold', { do: 'pid' });
    const { startRecord, error } = await host().trace(requestId);
    assert.equal(error, undefined);
    const names = startRecord?.steps.map(({ name }) => name) ?? [];
    for (const name of ['rootfs', 'drop', 'load']) assert.ok(names.includes(name), names.join());
    if (startRecord?.path === 'forked')
      for (const name of ['fork', 'cgroup', 'network', 'namespaces'])
        assert.ok(names.includes(name), names.join());
    for (const { name, startNs, endNs } of startRecord?.steps ?? [])
      assert.ok(endNs >= startNs, name);
  });

  test('the trace of a call names the file that was copied up, and how much', async () => {
    await host().deploy('functions/ledger');
    const { requestId, error } = await host().call('ledger', { account: 1, amount: 5 });
    assert.equal(error, undefined, error?.message);
    const { copyUps } = await host().trace(requestId);
    const database = copyUps.find(({ path }) => path.startsWith('/function/'));
    assert.ok(database !== undefined, JSON.stringify(copyUps));
    assert.ok(database.bytesCopied >= 8 * 2 ** 20, JSON.stringify(database));
    const { bytesChanged = 0 } = database;
    assert.ok(bytesChanged > 0 && bytesChanged < 2 ** 20, JSON.stringify(database));
  });
});
