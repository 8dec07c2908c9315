/** Keep-alive, admission by memory, and parking by demand, of a host with little of each. */
import assert from 'node:assert/strict';
import { before, suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostForFile } from '../support/file-host.ts';
import { slowness } from '../support/slowness.ts';

const parked = 2;
const host = hostForFile({ config: { memoryBudgetMb: 180, parked, parkedMax: 8 } });

/** Some 55 MB each, with what the host pays for them: three fit into the budget, four do not. */
const hungry = `
import { setTimeout as sleep } from 'node:timers/promises';
const held = Buffer.alloc(48 * 2 ** 20, 1);
export const handler = async (event: any) => { await sleep(event.ms); return held.length; };
`;
const names = ['hungry-a', 'hungry-b', 'hungry-c', 'hungry-d'];

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 10_000 * slowness;
  while (!(await holds())) {
    assert.ok(performance.now() < deadline, `Not in time: ${what}`);
    await sleep(50);
  }
}

const running = async (): Promise<string[]> =>
  (await host().status()).instances.map(({ functionName }) => functionName);

suite('memory', () => {
  before(async () => {
    for (const name of names) {
      const manifest = { name, memoryMb: 100, timeoutMs: name === 'hungry-d' ? 1000 : 20_000 };
      await host().deploy({ manifest, 'handler.ts': hungry });
    }
  });

  test('idle instances make room for others, and every call is served', async () => {
    for (let round = 0; round < 2; round++)
      for (const name of names) {
        const { error } = await host().call(name, { ms: 1 });
        assert.equal(error, undefined, error?.message);
        assert.ok((await running()).length <= 3, (await running()).join(' '));
      }
    assert.ok((await running()).includes('hungry-d'), 'the last one stays');
  });

  test('a call that no room can be made for in time is told busy; nobody busy goes', async () => {
    const calls = names.slice(0, 3).map((name) => host().call(name, { ms: 3000 }));
    await until('three run', async () => {
      const { instances } = await host().status();
      return instances.filter(({ state }) => state === 'busy').length === 3;
    });
    const refused = await host().call('hungry-d', { ms: 1 });
    assert.equal(refused.error?.code, 'host.busy');
    for (const { error } of await Promise.all(calls)) assert.equal(error, undefined);
    const { error } = await host().call('hungry-d', { ms: 1 });
    assert.equal(error, undefined, 'there is room again');
  });
});

test('a fixed keep-alive ends an idle instance', async () => {
  const keepAlive = { policy: 'fixed', minutes: 0.01 };
  await host().deploy({ manifest: { name: 'brief', keepAlive }, 'handler.ts': hungry });
  await until('it has ended', async () => !(await running()).includes('brief'));
  assert.notEqual((await host().call('brief', { ms: 1 })).start, 'hot');
});

test('what is parked for a function is there for it while another starts in bursts', async () => {
  const handler = 'export const handler = () => 1;';
  const never = { reuse: 'never', instancesMax: 40 };
  await host().deploy({ manifest: { ...never, name: 'hasty' }, 'handler.ts': handler });
  const asking = { ...never, name: 'asking', parked: 1 };
  await host().deploy({ manifest: asking, 'handler.ts': handler });
  // What the deploys have started serves the first call of each.
  for (const name of ['hasty', 'asking']) await host().call(name, {});
  for (let round = 0; round < 3; round++) {
    await until('parked ones are back', async () => (await host().status()).parked > parked);
    const burst = Array.from({ length: 20 }, () => host().call('hasty', {}));
    await sleep(10);
    const { start, error } = await host().call('asking', {});
    assert.deepEqual([start, error], ['parked', undefined]);
    for (const reply of await Promise.all(burst)) assert.equal(reply.error, undefined);
  }
});

test('more containers are parked when functions start often, within the limit', async () => {
  const manifest = { name: 'single', reuse: 'never' };
  const handler = 'export const handler = () => 1;';
  await host().deploy({ manifest, 'handler.ts': handler });
  const calls = Array.from({ length: 20 }, () => host().call('single', {}));
  for (const { error } of await Promise.all(calls)) assert.equal(error, undefined);
  let most = 0;
  await until('more are parked', async () => {
    most = Math.max(most, (await host().status()).parked);
    return most > parked;
  });
  await sleep(1500);
  assert.ok((await host().status()).parked <= 8);
});
