/** Versions on a running host: a deploy makes before it breaks; a failed one changes nothing. */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { HatchError } from '../../host/base/errors.ts';
import { hostForFile } from '../support/file-host.ts';
import type { InlineFunction } from '../support/upload-function.ts';

const host = hostForFile();

const answering = (name: string, answer: unknown, manifest = {}): InlineFunction => ({
  manifest: { name, ...manifest },
  'handler.ts': `
import { setTimeout as sleep } from 'node:timers/promises';
export const handler = async (event: any) => {
  if (event?.ms) await sleep(event.ms);
  return ${JSON.stringify(answer)};
};`,
});

const answerOf = async (name: string): Promise<unknown> =>
  (await host().call(name)).json<unknown>();

/** Every host follows a change by itself, a moment after it was made. */
async function becomes(name: string, expected: unknown): Promise<void> {
  const deadline = performance.now() + 2000;
  const isThere = async (): Promise<boolean> => {
    const reply = await host().call(name);
    return reply.error === undefined && reply.json<unknown>() === expected;
  };
  while (!(await isThere())) {
    assert.ok(performance.now() < deadline, `"${name}" did not become ${String(expected)}`);
    await sleep(5);
  }
}

suite('deploys', () => {
  test('a new version takes over while calls flow, and none of them fails', async () => {
    await host().deploy(answering('flow', 1, { instancesMax: 4 }));
    const answers: number[] = [];
    const errors: (HatchError | undefined)[] = [];
    let stop = false;
    const callers = Array.from({ length: 6 }, async () => {
      while (!stop) {
        const reply = await host().call('flow', { ms: 5 });
        if (reply.error === undefined) answers.push(reply.json<number>());
        else errors.push(reply.error);
      }
    });
    for (const version of [2, 3, 4]) {
      await sleep(100);
      await host().deploy(answering('flow', version, { instancesMax: 4 }));
    }
    await sleep(300);
    stop = true;
    await Promise.all(callers);
    assert.deepEqual(errors, []);
    assert.deepEqual(new Set(answers), new Set([1, 2, 3, 4]));
    assert.deepEqual(new Set(answers.slice(-6)), new Set([4]));
    const deadline = performance.now() + 3000;
    for (;;) {
      const { instances } = await host().status();
      const old = instances.filter(
        (one) => one.functionName === 'flow' && one.functionVersion !== '4',
      );
      if (old.length === 0) break;
      assert.ok(performance.now() < deadline, JSON.stringify(old));
      await sleep(20);
    }
  });

  test('a long call on the old version ends in peace', async () => {
    await host().deploy(answering('long', 'old'));
    const call = host().call('long', { ms: 800 });
    await sleep(50);
    await host().deploy(answering('long', 'new'));
    await becomes('long', 'new');
    assert.equal((await call).json<string>(), 'old');
  });

  const broken: [what: string, code: string, source: string][] = [
    ['throws at load', 'deploy.failed', `throw new Error('not today'); export const handler = 1;`],
    ['exits at load', 'deploy.failed', `process.exit(4); export const handler = () => 1;`],
    ['exits at load without a word', 'deploy.failed', `process.exit(0); export const handler = 1;`],
    ['is killed at load', 'deploy.failed', `process.kill(process.pid, 'SIGKILL');`],
    ['has no handler', 'deploy.failed', `export const other = () => 1;`],
    ['rejects at load', 'deploy.failed', `await Promise.reject(new Error('not today'));`],
    ['uses what is not there', 'deploy.failed', `import 'node:no-such-thing';`],
    [
      'takes all memory at load',
      'deploy.failed',
      `const all = []; for (;;) all.push(Buffer.alloc(8 << 20, 1));`,
    ],
  ];
  for (const [what, code, source] of broken)
    test(`a version that ${what} is refused, and the old one goes on`, async () => {
      await host().deploy(answering('steady', 'steady'));
      const before = await host().client.ask('versions', { name: 'steady' });
      const bad = { manifest: { name: 'steady' }, 'handler.ts': source };
      await assert.rejects(host().deploy(bad), { code });
      assert.equal(await answerOf('steady'), 'steady');
      assert.deepEqual(await host().client.ask('versions', { name: 'steady' }), before);
    });

  test('a version that cannot be bundled is refused, and the old one goes on', async () => {
    const bad = { manifest: { name: 'steady' }, 'handler.ts': 'export const handler = (' };
    await assert.rejects(host().deploy(bad), { code: 'deploy.invalid' });
    assert.equal(await answerOf('steady'), 'steady');
  });

  test('versions stay reachable by number, by alias, and by rolling back', async () => {
    for (const version of ['one', 'two', 'three']) await host().deploy(answering('v', version));
    await becomes('v', 'three');
    assert.equal(await answerOf('v.1'), 'one');
    assert.equal(await answerOf('v.2'), 'two');
    await host().client.ask('alias', { name: 'v', alias: 'stable', version: '2' });
    await becomes('v.stable', 'two');
    await host().client.ask('rollback', { name: 'v' });
    await becomes('v', 'two');
    await host().client.ask('rollback', { name: 'v', to: '1' });
    await becomes('v', 'one');
    assert.equal(await answerOf('v.3'), 'three');
    assert.equal((await host().call('v.nothing')).error?.code, 'version.not_found');
  });

  test('a bundle that awaits at its top level is an ES module, and works', async () => {
    await host().deploy({
      manifest: { name: 'esm' },
      'handler.ts': `
const ready = await new Promise((resolve) => setTimeout(() => resolve('waited'), 20));
export const handler = () => ({ ready, url: import.meta.url });`,
    });
    assert.deepEqual(await answerOf('esm'), {
      ready: 'waited',
      url: 'file:///function/index.mjs',
    });
  });

  test('a default export serves as the handler', async () => {
    const source = 'export default async (event: { n: number }) => event.n + 1;';
    await host().deploy({ manifest: { name: 'plain' }, 'handler.ts': source });
    assert.equal((await host().call('plain', { n: 41 })).json<number>(), 42);
  });

  test('a full queue says busy at once, and those who wait are served', async () => {
    await host().deploy(answering('narrow', 1, { instancesMax: 1 }));
    const replies = await Promise.all(
      Array.from({ length: 1100 }, () => host().call('narrow', { ms: 2 })),
    );
    const busy = replies.filter(({ error }) => error?.code === 'host.busy');
    const served = replies.filter(({ error }) => error === undefined);
    assert.equal(busy.length + served.length, replies.length);
    assert.ok(busy.length >= 50 && busy.length < 100, `${busy.length} were refused`);
    assert.equal(busy[0]?.headers['Retry-After-Ms'], '100');
    assert.equal(await answerOf('narrow'), 1);
  });
});
