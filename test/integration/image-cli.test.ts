/** `hatch image` against a host and docker-registry: what is printed, what is left, what fails. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import type { ControlReply } from '../../host/dispatch/control-api.ts';
import { hostForFile } from '../support/file-host.ts';
import { file, makeLayout } from '../support/image-layout.ts';
import type { TestLayout } from '../support/image-layout.ts';
import { RegistryServer } from '../support/registry-server.ts';

let directory: string;
let registry: RegistryServer;
let layout: TestLayout;
let image: string;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-image-cli-'));
  registry = await RegistryServer.start();
  layout = await makeLayout({
    directory: join(directory, 'layout'),
    compression: 'gzip',
    layers: [[file('below', 'below')], [file('above', 'above'.repeat(10_000))]],
    env: ['A=1'],
  });
  image = `${registry.host}/team/app:1`;
});
after(async () => {
  await registry[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});
// After the registry, which runs before the host and ends before it: no child of the host's.
const host = hostForFile();

interface Run {
  code: number;
  stdout: string;
  stderr: string;
}

function hatch(...args: string[]): Promise<Run> {
  const program = resolve(import.meta.dirname, '../../ops/hatch');
  const { HATCH_NATS_URL: _, ...environment } = process.env;
  const env = { ...environment, HATCH_STATE_DIRECTORY: host().stateDirectory };
  return new Promise((done) => {
    const child = execFile(program, ['image', ...args], { env }, (_error, stdout, stderr) =>
      done({ code: child.exitCode ?? -1, stdout, stderr }),
    );
  });
}

/** Fails when the command does. */
async function read<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await hatch(...args, '--json');
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as T;
}

async function listed(): Promise<string[]> {
  const [own] = await read<ControlReply<'image.ls'>[]>('ls');
  return (own?.images ?? []).map(({ reference }) => reference);
}

test('push sends an image of a layout, once', async () => {
  const push = ['push', '--layout', layout.directory, '--insecure', layout.reference, image];
  const pushed = await read<ControlReply<'image.push'>>(...push);
  assert.deepEqual([pushed.reference, pushed.digest], [image, layout.digest]);
  assert.ok(pushed.sentBytes > 0);
  const again = await hatch(...push);
  assert.equal(again.stdout, `${image} ${layout.digest} (0 B sent)\n`);
});

test('pull fetches it, ls and inspect show it', async () => {
  const pulled = await read<{ host: string; image: ControlReply<'image.import'>['image'] }[]>(
    'pull',
    '--insecure',
    image,
  );
  assert.deepEqual(
    pulled.map((one) => [one.host, one.image.reference, one.image.digest, one.image.layers]),
    [[host().name, image, layout.digest, 2]],
  );
  const { stdout, stderr } = await hatch('ls');
  assert.match(stdout, /^HOST +.*\n/);
  assert.match(stdout, new RegExp(`${image} +`));
  assert.match(stderr, /of them held/);
  const details = await read<ControlReply<'image.inspect'>>('inspect', image);
  assert.deepEqual([details.config.env, details.from], [{ A: '1' }, image]);
  assert.equal(details.layers.length, 2);
  assert.match(
    (await hatch('inspect', image)).stdout,
    new RegExp(`^Digest: +${layout.digest}`, 'm'),
  );
});

test('what is pinned outlives gc, what is not does not; the base image is in use', async () => {
  const [before] = await listed();
  assert.ok(before !== undefined);
  assert.match((await hatch('pin', image)).stdout, / yes/);
  assert.equal((await hatch('gc', '--images')).code, 0);
  assert.ok((await listed()).includes(image));
  const kept = await read<{ layers: number }[]>('gc');
  assert.equal(kept[0]?.layers, 0, 'without --images nothing of an image goes');
  assert.equal((await hatch('unpin', image)).code, 0);
  const freed = await read<{ layers: number; freedBytes: number }[]>('gc', '--images');
  assert.deepEqual([freed[0]?.layers, (freed[0]?.freedBytes ?? 0) > 50_000], [2, true]);
  const rest = await listed();
  assert.ok(!rest.includes(image) && rest.length === 1, 'the base image stays');
});

test('verify names what was changed; rm and another pull mend it', async () => {
  assert.equal((await hatch('pull', '--insecure', image)).code, 0);
  const whole = await hatch('verify', image);
  assert.deepEqual([whole.code, whole.stdout], [0, '2 layers are as they were unpacked\n']);
  await writeFile(join(await layerWith('above'), 'above'), 'changed');
  const damaged = await hatch('verify', image);
  assert.equal(damaged.code, 1);
  assert.match(damaged.stdout, /changed \/above/);
  assert.match(damaged.stderr, /1 of 2 layers .*image\.invalid/);
  assert.equal((await hatch('verify', '--json')).code, 1, 'of all layers');
  const removed = await hatch('rm', image);
  assert.deepEqual([removed.code, removed.stdout], [0, `Removed ${image}\n`]);
  assert.ok(!(await listed()).includes(image));
  assert.equal((await hatch('pull', '--insecure', image)).code, 0);
  assert.equal((await hatch('verify', image)).code, 0);
});

test('push copies an image of the host, byte for byte', async () => {
  const target = `${registry.host}/team/copy:2`;
  const pushed = await read<ControlReply<'image.push'>>('push', '--insecure', image, target);
  assert.deepEqual(pushed, { reference: target, digest: layout.digest, sentBytes: 0 });
  const reply = await fetch(`http://${registry.host}/v2/team/copy/manifests/2`, {
    headers: { accept: 'application/vnd.oci.image.manifest.v1+json' },
  });
  assert.equal(reply.headers.get('docker-content-digest'), layout.digest);
});

test('what cannot be done ends with an exit code, a named error and what to do', async () => {
  const before = await listed();
  const none = `${registry.host}/team/none:1`;
  const wrong = [
    [['pull', '--insecure', none], 1, /MANIFEST_UNKNOWN.*image\.not_found/s],
    // A name, not an address of loopback: nobody takes it for a registry without TLS.
    [['pull', image.replace('127.0.0.1', 'localhost')], 1, /has to be asked for.*registry_failed/s],
    [['pull', 'Not A Name'], 1, /image\.invalid/],
    [['pull'], 2, /REFERENCE/],
    [['inspect', 'nowhere:1'], 1, /"hatch image ls" shows.*image\.not_found/s],
    [['rm', 'nowhere:1'], 1, /image\.not_found/],
    [['pin', 'nowhere:1'], 1, /image\.not_found/],
    [['push', 'nowhere:1', image], 1, /image\.not_found/],
    [['push', '--layout', '/nowhere', image], 1, /image\.not_found/],
  ] as const;
  const runs = await Promise.all(wrong.map(([args]) => hatch(...args)));
  for (const [index, [args, code, message]] of wrong.entries()) {
    const { stderr = '', code: actual } = runs[index] ?? {};
    assert.equal(actual, code, `${args.join(' ')}: ${stderr}`);
    assert.match(stderr, message);
  }
  assert.deepEqual(await listed(), before);
});

/** The directory of the layer that has such a file. */
async function layerWith(name: string): Promise<string> {
  const layers = join(host().stateDirectory, 'images', 'layers');
  for (const layer of await readdir(layers))
    if ((await readdir(join(layers, layer))).includes(name)) return join(layers, layer);
  return assert.fail(`no layer has "${name}"`);
}
