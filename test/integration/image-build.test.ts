import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { closeSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { LayerStore } from '../../host/image/layer-store.ts';
import type { StoredImage } from '../../host/image/stored-image.ts';
import { attachMount, createMount, detachMount } from '../../host/sys/mount.ts';
import { buildImage } from '../../images/build.ts';
import type { BuiltImage } from '../../images/build.ts';
import { parseRecipe, readRecipe } from '../../images/recipe.ts';

const execute = promisify(execFile);
const root = dirname(dirname(import.meta.dirname));
const cacheDirectory = join(root, '.cache', 'build');

let directory: string;
let image: BuiltImage;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-image-'));
  image = await build(join(directory, 'layout'), cacheDirectory);
});
after(async () => {
  await rm(directory, { recursive: true });
});

async function build(outputDirectory: string, cache: string): Promise<BuiltImage> {
  return buildImage({
    recipe: await readRecipe('node24'),
    outputDirectory,
    cacheDirectory: cache,
  });
}

describe('the base image node24', () => {
  test('is an OCI image that skopeo accepts, blobs included', async () => {
    const { stdout } = await execute('skopeo', ['inspect', `oci:${image.directory}`]);
    const inspected = JSON.parse(stdout) as { Digest: string; Layers: string[]; Os: string };
    assert.equal(inspected.Digest, image.digest);
    assert.equal(inspected.Os, 'linux');
    assert.deepEqual(
      inspected.Layers,
      image.layers.map(({ digest }) => digest),
    );
    const copy = join(directory, 'copied');
    await execute('skopeo', ['copy', `oci:${image.directory}`, `dir:${copy}`]);
    const sizes = await Promise.all(
      image.layers.map(async ({ digest }) => (await stat(join(copy, digest.slice(7)))).size),
    );
    assert.deepEqual(
      sizes,
      image.layers.map(({ sizeBytes }) => sizeBytes),
    );
  });

  test('has the same digests when it is built again from the same inputs', async () => {
    const cache = join(directory, 'cache');
    await mkdir(cache);
    await cp(join(cacheDirectory, 'packages'), join(cache, 'packages'), { recursive: true });
    const again = await build(join(directory, 'again'), cache);
    assert.ok(again.layers.every(({ cached }) => !cached));
    assert.deepEqual(
      await readFile(join(again.directory, 'index.json')),
      await readFile(join(image.directory, 'index.json')),
    );
    assert.deepEqual(
      await readdir(join(again.directory, 'blobs', 'sha256')),
      await readdir(join(image.directory, 'blobs', 'sha256')),
    );
    const third = await build(join(directory, 'again'), cache);
    assert.ok(third.layers.every(({ cached }) => cached));
    assert.equal(third.digest, again.digest);
  });

  test('changes only the runtime layer when the runtime changes', async () => {
    const runtimeEntry = join(directory, 'entry.ts');
    await writeFile(runtimeEntry, 'const answer: number = 42;\nconsole.log(answer);\n');
    const changed = await buildImage({
      recipe: await readRecipe('node24'),
      outputDirectory: join(directory, 'changed'),
      cacheDirectory,
      runtimeEntry,
    });
    assert.notEqual(changed.digest, image.digest);
    const same = changed.layers.map(({ digest }, index) => digest === image.layers[index]?.digest);
    assert.deepEqual(same, [true, true, false]);
  });
});

describe('a container root of the base image', () => {
  let store: LayerStore;
  let stored: StoredImage;
  let mount: string;

  before(async () => {
    store = await LayerStore.open({ root: join(directory, 'store') });
    stored = await store.importLayout({ directory: image.directory });
    mount = join(directory, 'mount');
    await mkdir(mount);
    const topFirst = stored.layers.toReversed().map(({ path }) => path);
    const options = [{ key: 'lowerdir', value: topFirst.join(':') }];
    const fd = createMount({ type: 'overlay', options, attributes: 0 });
    attachMount(fd, mount);
    closeSync(fd);
  });
  after(async () => {
    detachMount(mount);
    await store.close();
  });

  async function inRoot(...command: string[]): Promise<string> {
    const { stdout } = await execute('chroot', [mount, ...command], {
      env: stored.config.env,
    });
    return stdout.trim();
  }

  test('runs Node, with certificates, time zones and names', async () => {
    assert.equal(await inRoot('/usr/local/bin/node', '-p', 'process.version'), process.version);
    const script = `
      const zone = new Date(0).toLocaleString('en-US', { timeZone: 'Asia/Tokyo', hour: 'numeric' });
      require('node:dns').lookup('localhost', (error, address) => {
        console.log(JSON.stringify([zone, error, address, require('node:os').userInfo().username]));
      });`;
    assert.deepEqual(JSON.parse(await inRoot('node', '-e', script)), [
      '9 AM',
      null,
      '127.0.0.1',
      'root',
    ]);
    const bundle = await readFile(join(mount, 'etc/ssl/certs/ca-certificates.crt'), 'utf8');
    const pattern = /-----BEGIN CERTIFICATE-----/g;
    assert.ok((bundle.match(pattern)?.length ?? 0) > 100);
    const parse = `new (require('node:crypto').X509Certificate)(
      require('node:fs').readFileSync(process.env.SSL_CERT_FILE)).subject`;
    assert.match(await inRoot('node', '-p', parse), /CN=/);
  });

  test('has a shell, its commands, and the user for functions', async () => {
    assert.equal(await inRoot('/bin/sh', '-c', 'echo ok | sed s/ok/fine/'), 'fine');
    assert.equal(await inRoot('/bin/sh', '-c', 'id -u function; id -g function'), '1000\n1000');
    assert.equal(await inRoot('/bin/date', '-d', '@0', '+%Y %Z'), '1970 UTC');
    assert.equal(await inRoot('stat', '-c', '%u:%g %a', '/home/function'), '1000:1000 755');
    assert.equal(await inRoot('stat', '-c', '%a', '/tmp', '/var/tmp'), '1777\n1777');
    for (const path of ['proc', 'dev', 'tmp', 'mnt', 'run/secrets', 'function', 'var/tmp'])
      assert.deepEqual(await readdir(join(mount, path)), [], path);
  });

  test('has our runtime, and a koffi that loads', async () => {
    const loads = "require('/hatch/node_modules/koffi').load('libc.so.6').func('int getpid()')()";
    assert.ok(Number(await inRoot('node', '-p', loads)) > 0);
    const map = JSON.parse(await readFile(join(mount, 'hatch/runtime-init.cjs.map'), 'utf8')) as {
      sources: string[];
    };
    assert.ok(map.sources.includes('../runtime-init/main.ts'), map.sources.join(' '));
    await inRoot('node', '--check', '/hatch/runtime-init.cjs');
  });

  test('has our runtime compiled as a whole when it is loaded for the zygote', async () => {
    const log = '--log-function-events --logfile=- --no-logfile-per-isolate';
    const compiled = (file: string): Promise<string> =>
      inRoot('/bin/sh', '-c', `node ${log} ${file} no-mode 2>&1 | grep ,interpreter,`);
    for (const name of ['runInit', 'supervise', 'dropPrivileges', 'park']) {
      const pattern = new RegExp(`,${name}$`, 'm');
      assert.match(await compiled('/hatch/zygote.cjs'), pattern);
      assert.doesNotMatch(await compiled('/hatch/runtime-init.cjs'), pattern);
    }
  });

  test('is owned by root but for the home of the user, and holds no documentation', async () => {
    const { stdout } = await execute('find', [mount, '-xdev', '!', '-user', '0']);
    assert.equal(stdout.trim(), join(mount, 'home/function'));
    await assert.rejects(stat(join(mount, 'usr/share/doc')), { code: 'ENOENT' });
    await assert.rejects(stat(join(mount, 'usr/share/man')), { code: 'ENOENT' });
  });
});

test('a recipe with an unknown or malformed field is refused, naming it', () => {
  assert.throws(() => parseRecipe('{', 'image.json'), { message: /"image.json": it is no JSON/ });
  assert.throws(() => parseRecipe('{"name":"x","colour":"red"}', 'image.json'), {
    code: 'image.invalid',
    message: /colour/,
  });
});
