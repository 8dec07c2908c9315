/** What a handler can do wrong: each has a code of its own, and the next call works. */
import assert from 'node:assert/strict';
import { before, suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostForFile } from '../support/file-host.ts';
import type { Reply } from '../support/host.ts';

const host = hostForFile();

const handlerSource = `
const kept: Uint8Array[] = [];
const cyclic: Record<string, unknown> = {};
cyclic.self = cyclic;

class Teapot extends Error {
  override name = 'Teapot';
}

function deeper(): never {
  throw new Teapot('short and stout'); // line 11
}

const deeds: Record<string, (event: any, context: any) => unknown> = {
  well: () => 'well',
  throw: () => deeper(),
  throwText: () => { throw 'just text'; },
  throwNothing: () => { throw undefined; },
  throwBare: () => { throw Object.create(null); },
  throwHuge: () => { throw new Error('x'.repeat(5_000_000)); },
  exit: () => process.exit(3),
  exitWell: () => process.exit(0),
  kill: () => { process.kill(process.pid, 'SIGKILL'); return new Promise(() => undefined); },
  abort: () => process.abort(),
  reject: () => {
    void Promise.reject(new Teapot('nobody listens'));
    return new Promise(() => undefined);
  },
  throwLater: () => {
    setTimeout(() => { throw new Teapot('too late'); }, 1);
    return new Promise(() => undefined);
  },
  block: () => { for (;;); },
  never: () => new Promise(() => undefined),
  heed: (event, context) => new Promise((resolve, reject) => {
    context.signal.addEventListener('abort', () => reject(context.signal.reason));
  }),
  circular: () => cyclic,
  bigint: () => 10n,
  function: () => () => 1,
  symbol: () => Symbol('s'),
  leak: () => { for (;;) kept.push(new Uint8Array(8 << 20).fill(1)); },
  pid: () => process.pid,
};

export const handler = (event: any, context: any) => deeds[event.do](event, context);
`;

async function doIt(deed: string, timeoutMs = 10_000): Promise<Reply> {
  const headers = { 'Hatch-Timeout-Ms': String(timeoutMs) };
  return host().call('wrong', { do: deed }, { headers });
}

async function assertNextWorks(): Promise<Reply> {
  const reply = await doIt('well');
  assert.equal(reply.json<string>(), 'well');
  return reply;
}

const fatal = [
  'exit',
  'exitWell',
  'kill',
  'abort',
  'reject',
  'throwLater',
  'leak',
  'block',
  'never',
];
const cases: [deed: string, code: string, message: RegExp, timeoutMs?: number][] = [
  ['throw', 'function.threw', /short and stout/],
  ['throwText', 'function.threw', /just text/],
  ['throwNothing', 'function.threw', /undefined/],
  ['throwHuge', 'function.threw', /xxx/],
  ['exit', 'function.exited', /exited with status 3/],
  ['exitWell', 'function.exited', /exited with status 0/],
  ['kill', 'function.exited', /signal 9/],
  ['abort', 'function.exited', /status 134|signal 6/],
  ['reject', 'function.threw', /nobody listens/],
  ['throwLater', 'function.threw', /too late/],
  ['block', 'function.timeout', /did not answer within (29\d|300) ms/, 300],
  ['never', 'function.timeout', /did not answer within (29\d|300) ms/, 300],
  ['circular', 'function.result_invalid', /circular/],
  ['bigint', 'function.result_invalid', /BigInt/],
  ['function', 'function.result_invalid', /function/],
  ['symbol', 'function.result_invalid', /symbol/],
  ['leak', 'function.oom', /128 MiB/],
];

suite('what a handler can do wrong', () => {
  before(async () => {
    await host().deploy({
      manifest: { name: 'wrong', timeoutMs: 10_000, memoryMb: 128 },
      'handler.ts': handlerSource,
    });
  });

  for (const [deed, code, message, timeoutMs] of cases)
    test(`"${deed}" gives ${code}, and the next call works`, async () => {
      const { error } = await doIt(deed, timeoutMs);
      assert.equal(error?.code, code, error?.message);
      assert.match(error?.message ?? '', message);
      const next = await assertNextWorks();
      if (!fatal.includes(deed)) assert.equal(next.start, 'hot');
    });

  test('what is thrown without being an Error still gets an answer', async () => {
    const { error } = await doIt('throwBare');
    assert.ok(error?.code === 'function.threw' || error?.code === 'function.exited', error?.code);
    await assertNextWorks();
  });

  test('a stack names the line of the TypeScript file', async () => {
    const { error } = await doIt('throw');
    assert.equal(error?.details['name'], 'Teapot');
    assert.match(String(error?.details['stack']), /at deeper \(.*handler\.ts:11:\d+\)/);
  });

  test('a handler that heeds its signal keeps its instance', async () => {
    await assertNextWorks();
    // One that has to be killed is still there for a moment.
    while ((await host().instancesOf('wrong')).length > 1) await sleep(20);
    const pidBefore = (await host().call('wrong', { do: 'pid' })).json<number>();
    const [instance] = await host().instancesOf('wrong');
    const { error } = await doIt('heed', 200);
    assert.equal(error?.code, 'function.timeout');
    await sleep(400);
    assert.deepEqual(await host().instancesOf('wrong'), [instance]);
    assert.equal((await host().call('wrong', { do: 'pid' })).json<number>(), pidBefore);
  });

  test('a handler that ignores its signal is killed', async () => {
    await assertNextWorks();
    const [instance] = await host().instancesOf('wrong');
    const { error } = await doIt('never', 200);
    assert.equal(error?.code, 'function.timeout');
    await assertNextWorks();
    const deadline = performance.now() + 3000;
    while ((await host().instancesOf('wrong')).some((id) => id === instance)) {
      assert.ok(performance.now() < deadline, 'the instance lives on');
      await sleep(20);
    }
  });

  test('an out of memory says by how much', async () => {
    const { error } = await doIt('leak');
    assert.equal(error?.details['scope'], 'cgroup');
    assert.equal(error?.details['limitBytes'], 128 * 2 ** 20);
    assert.ok(Number(error?.details['peakBytes']) > 100 * 2 ** 20);
    await assertNextWorks();
  });

  test('a function that is not there, or no more, is not found', async () => {
    assert.equal((await host().call('nobody')).error?.code, 'function.not_found');
    await host().deploy({
      manifest: { name: 'gone' },
      'handler.ts': `export const handler = () => 1;`,
    });
    assert.equal((await host().call('gone')).json<number>(), 1);
    assert.equal((await host().call('gone.7')).error?.code, 'version.not_found');
    await host().client.ask('rm', { name: 'gone' });
    const deadline = performance.now() + 3000;
    while ((await host().call('gone')).error?.code !== 'function.not_found') {
      assert.ok(performance.now() < deadline, 'it is found for ever');
      await sleep(5);
    }
    while ((await host().instancesOf('gone')).length > 0) {
      assert.ok(performance.now() < deadline, 'its instance lives on');
      await sleep(20);
    }
  });
});
