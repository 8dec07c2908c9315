/** Functions on images of a registry: what they find, and what a deploy that fails leaves. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LayerEntry } from '../../host/image/layer-tar.ts';
import { hostPlatform } from '../../host/image/manifest.ts';
import type { Platform } from '../../host/image/manifest.ts';
import { readImage } from '../../host/image/oci-layout.ts';
import { layoutBlobs } from '../../host/image/push.ts';
import { RegistryClient } from '../../host/image/registry/registry-client.ts';
import { parseRemoteName } from '../../host/image/registry/remote-name.ts';
import { file, makeLayout } from '../support/image-layout.ts';
import { startHost } from '../support/host.ts';
import type { TestHost } from '../support/host.ts';
import { nameHost } from '../support/named-host.ts';
import { RegistryServer } from '../support/registry-server.ts';
import type { InlineFunction } from '../support/upload-function.ts';

let directory: string;
let registry: RegistryServer;
let client: RegistryClient;
let named: Awaited<ReturnType<typeof nameHost>>;
let host: TestHost;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-fn-images-'));
  registry = await RegistryServer.start();
  const insecure = [registry.host];
  client = new RegistryClient({ credentialsFile: join(directory, 'none.json'), insecure });
  named = await nameHost({ registriesInsecure: insecure });
  host = await startHost({ config: named.config });
});
after(async () => {
  await host.stop();
  await named.assertNothingLeft();
  client[Symbol.dispose]();
  await registry[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});

let layouts = 0;

/** Makes an image and gives it a name in the registry. */
async function push(
  name: string,
  layers: LayerEntry[][],
  options: { platform?: Platform; env?: string[] } = {},
): Promise<string> {
  const { platform = hostPlatform() } = options;
  const place = join(directory, String(++layouts));
  await makeLayout({ directory: place, compression: 'gzip', layers, ...options });
  const reference = `${registry.host}/${name}`;
  const image = await readImage(place, { platform });
  await client.push(parseRemoteName(reference), image, { blobs: layoutBlobs(place) });
  return reference;
}

/** Answers with what it finds at the paths it is asked for. */
const looking = (name: string, manifest: Record<string, unknown>): InlineFunction => ({
  manifest: { name, ...manifest },
  'handler.ts': `
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
export const handler = (event: any) => ({
  files: event.paths.map((path: string) => existsSync(path) ? readFileSync(path, 'utf8') : null),
  variable: process.env.FROM_IMAGE,
  both: process.env.BOTH,
  child: event.child && execFileSync('node', ['-p', '6 * 7'], { encoding: 'utf8' }).trim(),
});`,
});

interface Found {
  files: (string | null)[];
  variable?: string;
  both?: string;
  child?: string;
}

async function look(name: string, ...paths: string[]): Promise<Found> {
  return (await host.call(name, { paths })).json<Found>();
}

suite('a function that names images', () => {
  const paths = ['/opt/app', '/opt/deps', '/etc/passwd', '/function/extra'];

  for (const isolation of ['fork', 'exec'])
    test(`has their files, and a runtime that works: ${isolation}`, async () => {
      const image = await push(
        `team/app-${isolation}:1`,
        [
          [file('opt/app', 'below'), file('usr/local/bin/node', 'no program')],
          [file('opt/app', 'app'), file('opt/deps', 'hidden'), file('etc/passwd', 'hidden')],
        ],
        { env: ['FROM_IMAGE=yes', 'BOTH=image'] },
      );
      const deps = await push(`team/deps-${isolation}:1`, [[file('opt/deps', 'deps')]]);
      const name = `on-image-${isolation}`;
      const manifest = { image, layers: [deps], isolation, env: { BOTH: 'manifest' } };
      const deployed = await host.deploy({
        ...looking(name, { ...manifest, files: ['extra'] }),
        extraFiles: { extra: 'extra' },
      });
      assert.match(deployed.images.image ?? '', /\/app-\w+:1@sha256:[0-9a-f]{64}$/);
      assert.match(deployed.images.layers.join(), /\/deps-\w+:1@sha256:[0-9a-f]{64}$/);
      const reply = await host.call(name, { paths, child: true });
      const found = reply.json<Found>();
      const [app, shared, passwd, extra] = found.files;
      assert.deepEqual([app, shared, extra], ['app', 'deps', 'extra']);
      assert.match(passwd ?? '', /^root:/, "the runtime's files are above the image's");
      assert.deepEqual([found.variable, found.both, found.child], ['yes', 'manifest', '42']);
    });

  test('keeps what its tag stood for; the next version has what it stands for then', async () => {
    const image = await push('team/moving:1', [[file('opt/app', 'old')]]);
    await host.deploy(looking('moving', { image, reuse: 'never' }));
    await push('team/moving:1', [[file('opt/app', 'new')]]);
    await host.client.askAll('image.gc', { images: true });
    assert.deepEqual((await look('moving', '/opt/app')).files, ['old']);
    const second = await host.deploy(looking('moving', { image, reuse: 'never' }));
    assert.equal(second.previousVersion, '1');
    assert.deepEqual((await look('moving', '/opt/app')).files, ['new']);
    assert.deepEqual((await look('moving.1', '/opt/app')).files, ['old']);
    const { versions } = await host.client.ask('versions', { name: 'moving' });
    assert.deepEqual(versions[1]?.images, second.images);
    assert.notDeepEqual(versions[0]?.images, second.images);
  });
});

suite('a deploy that fails changes nothing', () => {
  const name = 'steady';
  const foreign = { os: 'linux', architecture: 's390x' };

  before(async () => {
    await host.deploy(looking(name, {}));
    await push('team/foreign:1', [[file('opt/app', 'foreign')]], { platform: foreign });
  });

  for (const [what, image, failure] of [
    ['an image that is not there', 'team/none:1', { code: 'image.not_found', message: /none/ }],
    ['another platform', 'team/foreign:1', { code: 'image.invalid', message: /linux\/s390x/ }],
  ] as const)
    test(what, async () => {
      for (const change of [
        { image: `${registry.host}/${image}` },
        { layers: [`${registry.host}/${image}`] },
      ])
        await assert.rejects(host.deploy(looking(name, change)), failure);
      const { versions } = await host.client.ask('versions', { name });
      assert.deepEqual(
        versions.map(({ version }) => version),
        ['1'],
      );
      assert.deepEqual((await look(name)).files, []);
    });

  test('a registry that cannot be reached, here for want of TLS', async () => {
    const image = `localhost:${registry.host.split(':')[1]}/team/app-fork:1`;
    const failure = { code: 'image.registry_failed', message: /plain HTTP has to be asked for/ };
    await assert.rejects(host.deploy(looking(name, { image })), failure);
    assert.deepEqual((await look(name)).files, []);
  });

  test('a name that is none is found before anything is asked', async () => {
    await assert.rejects(host.deploy(looking(name, { image: 'Not A Name' })), {
      code: 'deploy.invalid',
      message: /image: must be the name of an image/,
    });
  });
});

suite('several hosts', () => {
  test('a host that cannot pull says so and keeps the old version', async () => {
    const image = await push('team/both:1', [[file('opt/app', 'new')]]);
    // This one does not speak to a registry without TLS.
    const server = { natsUrl: host.natsUrl, natsToken: host.token };
    const second = await startHost({ config: server });
    try {
      await host.deploy(looking('both', {}));
      // Any host may be asked; where it is the second, nothing changes.
      for (;;) {
        const deploy = host.deploy(looking('both', { image }));
        const failed = await deploy.then(
          () => undefined,
          (error: unknown) => error,
        );
        if (failed === undefined) break;
        assert.equal((failed as { code?: string }).code, 'image.registry_failed');
      }
      const deadline = performance.now() + 20_000;
      while (!second.output.includes('Cannot make a new version ready')) {
        assert.ok(performance.now() < deadline, second.output);
        await sleep(50);
      }
      assert.match(second.output, /registry_failed|Cannot reach registry/);
      const answers = new Set<string | null | undefined>();
      for (let call = 0; call < 60; call++) answers.add((await look('both', '/opt/app')).files[0]);
      assert.deepEqual(answers, new Set([null, 'new']), 'both versions answer');
    } finally {
      await second.stop();
    }
  });

  test('a host that starts again needs no registry for what it has', async () => {
    const image = await push('team/kept:1', [[file('opt/app', 'kept')]]);
    await host.deploy(looking('kept', { image }));
    await host.stop({ keepState: true });
    await registry.stop();
    host = await startHost({ config: host.config });
    assert.deepEqual((await look('kept', '/opt/app')).files, ['kept']);
    const found = await host.client.askAll('image.gc', { images: true });
    assert.ok(found.every((answer) => 'reply' in answer));
    const [before] = await host.instancesOf('kept');
    assert.ok(before !== undefined);
    assert.deepEqual((await look('kept', '/opt/app')).files, ['kept'], 'its layers are held');
  });
});
