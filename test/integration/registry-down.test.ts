/** A registry that is gone, and comes back: what goes on without it, and what waits for it. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostPlatform } from '../../host/image/manifest.ts';
import { readImage } from '../../host/image/oci-layout.ts';
import { layoutBlobs } from '../../host/image/push.ts';
import { RegistryClient } from '../../host/image/registry/registry-client.ts';
import { parseRemoteName } from '../../host/image/registry/remote-name.ts';
import { file, makeLayout } from '../support/image-layout.ts';
import { startHost } from '../support/host.ts';
import type { TestHost } from '../support/host.ts';
import type { InlineFunction } from '../support/upload-function.ts';
import { RegistryServer } from '../support/registry-server.ts';
import { slowness } from '../support/slowness.ts';

let directory: string;
let registry: RegistryServer;
let host: TestHost;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-registry-down-'));
  registry = await RegistryServer.start();
  host = await startHost({ config: { registriesInsecure: [registry.host] } });
});
after(async () => {
  await host.stop();
  await registry[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});
afterEach(() => registry.restart());

async function push(name: string): Promise<string> {
  const place = join(directory, name);
  const layers = [[file('opt/app', name)], [file('opt/more', 'more')]];
  await makeLayout({ directory: place, compression: 'gzip', layers });
  const reference = `${registry.host}/team/${name}:1`;
  const image = await readImage(place, { platform: hostPlatform() });
  using client = new RegistryClient({
    credentialsFile: join(directory, 'none.json'),
    insecure: [registry.host],
  });
  await client.push(parseRemoteName(reference), image, { blobs: layoutBlobs(place) });
  return reference;
}

const looking = (name: string, manifest: Record<string, unknown> = {}): InlineFunction => ({
  manifest: { name, timeoutMs: 60_000, ...manifest },
  'handler.ts': `import { existsSync, readFileSync } from 'node:fs';
    export const handler = () =>
      existsSync('/opt/app') ? readFileSync('/opt/app', 'utf8') : 'no image';`,
});

const look = async (name: string): Promise<string> => (await host.call(name)).json<string>();

async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  seen = (): string => '',
): Promise<void> {
  const deadline = performance.now() + 60_000 * slowness;
  while (!(await holds())) {
    assert.ok(performance.now() < deadline, `Not in time: ${what}\n${seen()}`);
    await sleep(100);
  }
}

test('a deploy is refused by name and says what to do; the version before it goes on', async () => {
  const image = await push('refused');
  await host.deploy(looking('refused'));
  await registry.stop();
  await assert.rejects(host.deploy(looking('refused', { image })), {
    code: 'image.registry_failed',
    message: new RegExp(`team/refused.*the connection to "${registry.host}" failed.*try again`),
  });
  const { versions } = await host.client.ask('versions', { name: 'refused' });
  assert.deepEqual(
    versions.map(({ version }) => version),
    ['1'],
  );
  assert.equal(await look('refused'), 'no image');
  await registry.restart();
  await host.deploy(looking('refused', { image }));
  assert.equal(await look('refused'), 'refused');
});

test('what a burst has pinned of a version is enough to call it', async () => {
  const image = await push('burst');
  await host.deploy(looking('burst', { image }));
  await host.deploy(looking('burst'));
  await until('the layers of the first version are let go', async () => {
    await host.client.askAny('image.gc', { images: true });
    return (await host.client.askAny('image.ls', {})).reply.images.every(
      ({ reference }) => !reference.includes('team/burst'),
    );
  });
  const functions = [{ name: 'burst', version: '1', calls: 1 }];
  const request = { functions, forMs: 600_000 };
  const options = { timeoutMs: 60_000, quietMs: 150 };
  const { reply: report } = await host.client.askAny('burst.pin', request, options);
  assert.deepEqual([report.ready, report.notReady], [['burst'], []]);
  await registry.stop();
  assert.equal(await look('burst.1'), 'burst');
  await host.client.askAny('burst.release', {});
});

test('a host that starts serves what it has; one that lacks layers tries again', async () => {
  const image = await push('restart');
  await host.deploy(looking('restart', { image }));
  await host.deploy(looking('plain'));
  await host.stop({ keepState: true });
  await registry.stop();
  host = await startHost({ config: host.config });
  assert.equal(await look('restart'), 'restart');

  // Another one joins, and has nothing yet.
  const { natsUrl, token: natsToken = '' } = host;
  const registriesInsecure = [registry.host];
  const second = await startHost({ config: { natsUrl, natsToken, registriesInsecure } });
  try {
    const told = (): string[] =>
      second.output.split('\n').filter((line) => line.includes('"function":"restart"'));
    await until(
      'it says what it lacks',
      () => told().length >= 2,
      () => second.output,
    );
    for (const line of told()) {
      assert.match(line, /Cannot load the first version here: calls of it fail/);
      assert.match(line, /the connection to \S+ failed/);
    }
    const { functions } = await second.status();
    assert.ok(functions >= 1, 'others are loaded');
    await registry.restart();
    const before = functions;
    await until('it has all', async () => (await second.status()).functions > before);
  } finally {
    await second.stop();
  }
});
