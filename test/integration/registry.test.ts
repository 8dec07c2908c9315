/** Against Debian's docker-registry: what skopeo, umoci and our own builder made goes both ways. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { lstat, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { collectLayers } from '../../host/image/collect.ts';
import { LayerStore } from '../../host/image/layer-store.ts';
import type { Compression } from '../../host/image/layer-tar.ts';
import { ImagePuller } from '../../host/image/pull.ts';
import { pushStored } from '../../host/image/push.ts';
import { RegistryClient } from '../../host/image/registry/registry-client.ts';
import type { RegistrySettings } from '../../host/image/registry/registry-client.ts';
import { verifyLayer } from '../../host/image/verify.ts';
import { makeLayout } from '../support/image-layout.ts';
import { RegistryServer, dockerConfig, makeTls } from '../support/registry-server.ts';
import { TokenService } from '../support/token-service.ts';

const execute = promisify(execFile);
const quick = { attemptsMax: 3, firstWaitMs: 10, waitMaxMs: 100 };

let directory: string;
let plain: RegistryServer;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-pull-'));
  plain = await RegistryServer.start();
});
after(async () => {
  await plain[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});

let names = 0;
const fresh = (): string => join(directory, String(++names));

/** A host's store, and what fills it. */
async function openParts(settings: Partial<RegistrySettings> = {}) {
  const store = await LayerStore.open({ root: fresh() });
  const client = new RegistryClient({
    credentialsFile: join(directory, 'none.json'),
    policy: quick,
    insecure: [plain.host],
    ...settings,
  });
  const puller = new ImagePuller({ store, client, downloadsMax: 3, layerBytesMax: 2 ** 30 });
  return {
    store,
    client,
    puller,
    async [Symbol.asyncDispose]() {
      await puller.close();
      client[Symbol.dispose]();
      await store.close();
    },
  };
}

function skopeo(...args: string[]): Promise<unknown> {
  return execute('skopeo', ['--insecure-policy', ...args]);
}

describe('docker-registry', () => {
  for (const compression of ['gzip', 'zstd', 'none'] satisfies Compression[]) {
    test(`an image of our builder comes back as it went: ${compression}`, async () => {
      const layout = await makeLayout({ directory: fresh(), compression });
      await using parts = await openParts();
      const reference = `${plain.host}/own/${compression}:1`;
      const stored = await parts.store.importLayout({ directory: layout.directory });
      const pushed = await pushStored(parts, { source: stored.reference, target: reference });
      assert.ok(pushed.sentBytes > 0);
      assert.equal(pushed.digest, layout.digest);
      const again = await pushStored(parts, { source: stored.reference, target: reference });
      assert.equal(again.sentBytes, 0, 'what is there is not sent again');
      await using other = await openParts();
      const pulled = await other.puller.pull(reference);
      assert.equal(pulled.digest, layout.digest);
      assert.equal(pulled.reference, reference);
      assert.equal(
        await readFile(join(pulled.layers.at(-1)?.path ?? '', 'above'), 'utf8'),
        'above',
      );
      assert.deepEqual(await readdir(other.store.downloadsDirectory), []);
      for (const { chainId } of pulled.layers)
        assert.deepEqual(await verifyLayer(other.store, chainId), []);
      const byDigest = `${plain.host}/own/${compression}@${pulled.digest}`;
      assert.deepEqual((await other.puller.pull(byDigest)).layers, pulled.layers);
    });
  }

  test('takes what skopeo wrote, by index and platform; skopeo and umoci take ours', async () => {
    const layout = await makeLayout({ directory: fresh(), compression: 'gzip' });
    const target = `${plain.host}/tools/image:v2`;
    await skopeo(
      'copy',
      '--dest-tls-verify=false',
      '--multi-arch=all',
      `oci:${layout.directory}:${layout.reference}`,
      `docker://${target}`,
    );
    await using parts = await openParts();
    const pulled = await parts.puller.pull(target);
    assert.equal(pulled.digest, layout.digest);
    const copy = `${plain.host}/tools/copy:v3`;
    // Its blobs are read from where it was pulled from, or mounted there.
    const pushed = await pushStored(parts, { source: target, target: copy });
    assert.equal(pushed.sentBytes, 0, 'the registry has the blobs already');
    const back = fresh();
    await skopeo('copy', '--src-tls-verify=false', `docker://${copy}`, `oci:${back}:back`);
    const bundle = fresh();
    await execute('umoci', ['unpack', '--image', `${back}:back`, bundle]);
    assert.equal(await readFile(join(bundle, 'rootfs/above'), 'utf8'), 'above');
  });

  test('takes an image of umoci, with a deletion in its upper layer', async () => {
    const layout = fresh();
    const image = `${layout}:made`;
    const content = fresh();
    await writeFile(content, 'by umoci');
    await execute('umoci', ['init', '--layout', layout]);
    await execute('umoci', ['new', '--image', image]);
    await execute('umoci', ['insert', '--image', image, content, '/kept']);
    await execute('umoci', ['insert', '--image', image, content, '/deleted']);
    await execute('umoci', ['insert', '--image', image, '--whiteout', '/deleted']);
    const target = `${plain.host}/tools/umoci:1`;
    await skopeo('copy', '--dest-tls-verify=false', `oci:${image}`, `docker://${target}`);
    await using parts = await openParts();
    const { layers } = await parts.puller.pull(target);
    assert.equal(await readFile(join(layers[0]?.path ?? '', 'kept'), 'utf8'), 'by umoci');
    assert.ok((await lstat(join(layers[2]?.path ?? '', 'deleted'))).isCharacterDevice());
  });

  test("an image in Docker's own form", async () => {
    const layout = await makeLayout({ directory: fresh(), compression: 'gzip' });
    const target = `${plain.host}/tools/docker:1`;
    await skopeo(
      'copy',
      '--dest-tls-verify=false',
      '--format=v2s2',
      `oci:${layout.directory}:${layout.reference}`,
      `docker://${target}`,
    );
    await using parts = await openParts();
    const pulled = await parts.puller.pull(target);
    assert.equal(pulled.layers.length, 2);
  });

  test('names what is not there, and what platform an image is for', async () => {
    await using parts = await openParts();
    await assert.rejects(parts.puller.pull(`${plain.host}/none:1`), {
      code: 'image.not_found',
      message: /MANIFEST_UNKNOWN/,
    });
    const layout = await makeLayout({ directory: fresh(), compression: 'gzip' });
    const target = `${plain.host}/tools/platform:1`;
    await parts.store.importLayout({ directory: layout.directory });
    await pushStored(parts, { source: layout.reference, target });
    await assert.rejects(
      parts.puller.pull(target, { platform: { os: 'linux', architecture: 's390x' } }),
      { code: 'image.invalid', message: /it is for linux/ },
    );
    assert.equal(parts.store.image(target), undefined);
  });

  test('plain HTTP only when asked', async () => {
    await using parts = await openParts({ insecure: [] });
    await assert.rejects(parts.puller.pull(`${plain.host}/own/gzip:1`), {
      code: 'image.registry_failed',
    });
    await parts.puller.pull(`${plain.host}/own/gzip:1`, { insecure: true });
  });

  test('many pulls of one image at once are one download', async () => {
    await using parts = await openParts();
    const pulls = Array.from({ length: 8 }, () => parts.puller.pull(`${plain.host}/own/zstd:1`));
    const images = await Promise.all(pulls);
    for (const image of images) assert.deepEqual(image, images[0]);
    assert.equal((await readdir(parts.store.layersDirectory)).length, 2);
  });

  test('a mirror is asked first, and is no worse than none when it is down', async () => {
    const mirrors = { 'registry.invalid:1': [`http://127.0.0.1:1`, `http://${plain.host}`] };
    await using parts = await openParts({ mirrors });
    const pulled = await parts.puller.pull('registry.invalid:1/own/gzip:1');
    assert.equal(pulled.reference, 'registry.invalid:1/own/gzip:1');
  });
});

describe('docker-registry with TLS and a password', () => {
  const user = { name: 'hatch', password: 'a:secret' };

  test('wants the authority and the password, and gets both', async () => {
    await using server = await RegistryServer.start({ user, tls: true });
    const layout = await makeLayout({ directory: fresh(), compression: 'zstd' });
    const target = `${server.host}/private/image:1`;
    await using stranger = await openParts();
    await assert.rejects(stranger.puller.pull(target), {
      code: 'image.registry_failed',
      message: /registryCaFile/,
    });
    const certificateAuthorities = [await server.certificate()];
    await using nobody = await openParts({ certificateAuthorities });
    await assert.rejects(nobody.puller.pull(target), {
      code: 'image.registry_denied',
      message: /docker login/,
    });
    const credentialsFile = fresh();
    await writeFile(credentialsFile, dockerConfig(server.host, { ...user, password: 'wrong' }));
    await using wrong = await openParts({ certificateAuthorities, credentialsFile });
    await assert.rejects(wrong.puller.pull(target), { code: 'image.registry_denied' });
    await writeFile(credentialsFile, dockerConfig(server.host, user));
    await using parts = await openParts({ certificateAuthorities, credentialsFile });
    await parts.store.importLayout({ directory: layout.directory });
    await pushStored(parts, { source: layout.reference, target });
    await using other = await openParts({ certificateAuthorities, credentialsFile });
    assert.equal((await other.puller.pull(target)).digest, layout.digest);
  });

  test('a token service says who may push; anybody may pull', async () => {
    const keys = fresh();
    await mkdir(keys);
    const files = await makeTls(keys);
    const key = await readFile(files.key, 'utf8');
    const certificate = await readFile(files.certificate, 'utf8');
    await using service = await TokenService.start({ user, key, certificate });
    await using server = await RegistryServer.start({ auth: service.settings(files.certificate) });
    const insecure = [server.host];
    const [known, wrong] = [fresh(), fresh()];
    await writeFile(known, dockerConfig(server.host, user));
    await writeFile(wrong, dockerConfig(server.host, { ...user, password: 'guessed' }));
    const layout = await makeLayout({ directory: fresh(), compression: 'gzip' });
    const target = `${server.host}/team/image:1`;

    await using pusher = await openParts({ credentialsFile: known, insecure });
    const { reference: source } = await pusher.store.importLayout({ directory: layout.directory });
    await pushStored(pusher, { source, target });
    assert.equal(service.asked, 1, 'some dozen requests, several at a time, share a token');
    await using anybody = await openParts({ insecure });
    assert.equal((await anybody.puller.pull(target)).digest, layout.digest);

    await using stranger = await openParts({ credentialsFile: wrong, insecure });
    const denied = { code: 'image.registry_denied', message: /answered 401.*docker login/ };
    await assert.rejects(stranger.puller.pull(target), denied);
    const other = { source: target, target: `${server.host}/team/other:1` };
    await assert.rejects(pushStored(anybody, other), { code: 'image.registry_denied' });
  });

  test('a credential helper is asked', async () => {
    await using server = await RegistryServer.start({ user });
    const bin = fresh();
    await mkdir(bin);
    const answer = JSON.stringify({ Username: user.name, Secret: user.password });
    const script = `#!/bin/sh\nread host\n[ "$host" = ${server.host} ] && echo '${answer}'\n`;
    await writeFile(join(bin, 'docker-credential-hatch'), script, { mode: 0o755 });
    const credentialsFile = fresh();
    await writeFile(credentialsFile, JSON.stringify({ credHelpers: { [server.host]: 'hatch' } }));
    const path = process.env['PATH'] ?? '';
    process.env['PATH'] = `${bin}:${path}`;
    try {
      await using parts = await openParts({ credentialsFile, insecure: [server.host] });
      await assert.rejects(parts.puller.pull(`${server.host}/none:1`), { code: 'image.not_found' });
    } finally {
      process.env['PATH'] = path;
    }
  });
});

describe('the store', () => {
  test('verify names what was changed, gc keeps what is held or has a name', async () => {
    await using parts = await openParts();
    const { store } = parts;
    const layout = await makeLayout({ directory: fresh(), compression: 'gzip' });
    const image = await store.importLayout({ directory: layout.directory });
    const top = image.layers.at(-1);
    assert.ok(top !== undefined);
    await writeFile(join(top.path, 'above'), 'other');
    await writeFile(join(top.path, 'more'), '');
    assert.deepEqual(
      (await verifyLayer(store, top.chainId)).filter(({ path }) => path !== ''),
      [
        { path: 'above', problem: 'changed' },
        { path: 'more', problem: 'unexpected' },
      ],
    );
    assert.deepEqual(await collectLayers(store, { images: false }), { layers: 0, freedBytes: 0 });
    const lease = store.acquire([top.chainId]);
    const held = await collectLayers(store, { images: true });
    assert.equal(held.layers, 1);
    assert.ok(existsSync(top.path));
    lease.release();
    assert.equal((await collectLayers(store, { images: false })).layers, 1);
    assert.ok(!existsSync(top.path));
    assert.deepEqual(store.images(), []);
  });
});
