/** A host whose layer cache is too small for all functions that are deployed. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, test } from 'node:test';
import { startHost, type TestHost } from '../support/host.ts';
import { waitFor } from '../support/host-processes.ts';
import type { InlineFunction } from '../support/upload-function.ts';

const MiB = 2 ** 20;
const contentBytes = 8 * MiB;
const names = ['one', 'two', 'three'];
let host: TestHost;

before(async () => {
  host = await startHost({ config: { layerCacheBytes: await capacityForTwo() } });
  for (const name of names) await deploy(name);
});
after(() => host?.stop());

test('all are called, in whatever order, and the cache keeps its size', async () => {
  for (const name of [...names, ...names.toReversed(), 'one', 'three']) {
    assert.equal(await call(name), contentBytes);
    await waitForNoInstance();
    const { usedBytes, capacityBytes } = await layerCache();
    assert.ok(usedBytes <= capacityBytes, `${usedBytes} of ${capacityBytes}`);
  }
});

test('a host that starts serves them too', async () => {
  await host.stop({ keepState: true });
  host = await startHost({ config: host.config });
  for (const name of names) {
    assert.equal(await call(name), contentBytes);
    await waitForNoInstance();
  }
});

/** The next one may need the room of its layers. */
function waitForNoInstance(): Promise<void> {
  return waitFor('no instance is left', async () => (await host.status()).instances.length === 0);
}

async function capacityForTwo(): Promise<number> {
  host = await startHost();
  const { usedBytes } = await layerCache();
  await host.stop();
  return usedBytes + Math.round(2.5 * contentBytes);
}

async function layerCache(): Promise<{ usedBytes: number; capacityBytes: number }> {
  const { reply } = await host.client.askAny('doctor', {});
  const detail = reply.checks.find(({ name }) => name === 'layer cache')?.detail ?? '';
  const [usedBytes = NaN, capacityBytes = NaN] = detail.match(/\d+/g)?.map(Number) ?? [];
  return { usedBytes, capacityBytes };
}

async function deploy(name: string): Promise<void> {
  // Its layer is as large as this, and cannot be compressed.
  const text = randomBytes((contentBytes * 3) / 4).toString('base64');
  const fn: InlineFunction = {
    manifest: { name, keepAliveMs: 0 },
    'handler.ts': `const text = '${text}'; export const handler = () => text.length;`,
  };
  await host.deploy(fn);
  await waitForNoInstance();
}

async function call(name: string): Promise<number> {
  const reply = await host.call(name);
  assert.equal(reply.error, undefined, reply.error?.message);
  return reply.json<number>();
}
