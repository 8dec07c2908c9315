/** Pulls from a registry that misbehaves, onto a full disk, and killed after each step. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { pullStepNames } from '../../host/base/channels.ts';
import { LayerStore } from '../../host/image/layer-store.ts';
import { ImagePuller } from '../../host/image/pull.ts';
import { RegistryClient } from '../../host/image/registry/registry-client.ts';
import { verifyLayer } from '../../host/image/verify.ts';
import { HostileRegistry } from '../support/hostile-registry.ts';
import type { Misdeed } from '../support/hostile-registry.ts';
import { file, makeLayout } from '../support/image-layout.ts';
import type { TestLayout } from '../support/image-layout.ts';

const execute = promisify(execFile);
const largeBytes = 3 * 2 ** 20;
const settings = {
  credentialsFile: '/nowhere',
  policy: { attemptsMax: 4, firstWaitMs: 5, waitMaxMs: 2000 },
  stallMs: 400,
};

let directory: string;
let layout: TestLayout;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-pulls-'));
  const layers = [[file('small', 'x')], [file('large', randomBytes(largeBytes))]];
  layout = await makeLayout({ directory: join(directory, 'layout'), compression: 'gzip', layers });
});
after(() => rm(directory, { recursive: true }));

let names = 0;
async function openParts(root = join(directory, `store-${++names}`)) {
  const store = await LayerStore.open({ root });
  const client = new RegistryClient(settings);
  const puller = new ImagePuller({ store, client, downloadsMax: 2, layerBytesMax: 2 ** 30 });
  return {
    store,
    root,
    puller,
    async [Symbol.asyncDispose]() {
      await puller.close();
      client[Symbol.dispose]();
      await store.close();
    },
  };
}

const suffered: Misdeed[] = ['break', 'break-without-ranges', 'busy-twice', 'none'];
const refused: [Misdeed, code: string, RegExp][] = [
  ['truncate', 'image.registry_failed', /ended it after 300000 bytes, 4 times/],
  ['wrong-bytes', 'image.invalid', /its bytes must be sha256:/],
  ['wrong-length', 'image.invalid', /its bytes must be \d+ bytes/],
  ['endless', 'image.invalid', /but are more/],
  ['stall', 'image.registry_failed', /sent less than/],
  ['trickle', 'image.registry_failed', /sent less than/],
  ['busy-for-an-hour', 'image.registry_failed', /to be asked again in 3600 s/],
  ['always-failing', 'image.registry_failed', /answered 503 .*4 times; try again later/],
  ['redirect-loop', 'image.registry_failed', /it sends on to/],
];

describe('a registry that misbehaves', () => {
  for (const misdeed of suffered) {
    test(`is borne with: ${misdeed}`, async () => {
      await using registry = await HostileRegistry.start(layout);
      registry.misdeed = misdeed;
      await using parts = await openParts();
      const reference = `${registry.host}/image:1`;
      const image = await parts.puller.pull(reference, { insecure: true });
      assert.equal(image.digest, layout.digest);
      if (misdeed === 'break') assert.ok(registry.asked >= 10, 'each part was asked for once');
    });
  }

  for (const [misdeed, code, message] of refused) {
    test(`ends with an error that says so, and nothing kept: ${misdeed}`, async () => {
      await using registry = await HostileRegistry.start(layout);
      registry.misdeed = misdeed;
      await using parts = await openParts();
      const reference = `${registry.host}/image:1`;
      await assert.rejects(parts.puller.pull(reference, { insecure: true }), { code, message });
      assert.deepEqual(parts.store.images(), []);
      assert.deepEqual(await readdir(parts.store.downloadsDirectory), []);
      assert.deepEqual(await readdir(join(parts.root, 'ingest')), []);
      registry.misdeed = 'none';
      await parts.puller.pull(reference, { insecure: true });
    });
  }

  test('a manifest of an unknown media type is refused by its name', async () => {
    await using registry = await HostileRegistry.start(layout);
    registry.manifestType = 'application/vnd.docker.distribution.manifest.v1+prettyjws';
    await using parts = await openParts();
    await assert.rejects(parts.puller.pull(`${registry.host}/image:1`, { insecure: true }), {
      code: 'image.invalid',
      message: /manifest\.v1\+prettyjws" are not supported/,
    });
  });
});

test('a full disk ends a pull by its name, keeps what was there; room mends it', async () => {
  await using registry = await HostileRegistry.start(layout);
  const reference = `${registry.host}/image:1`;
  const small = join(directory, 'small');
  // Enough for the download and half of what is in it, then for neither.
  for (const sizeBytes of [largeBytes * 1.5, largeBytes / 2]) {
    await mkdir(small, { recursive: true });
    const options = `size=${Math.floor(sizeBytes / 4096) * 4096}`;
    await execute('mount', ['-t', 'tmpfs', '-o', options, 'hatch-small', small]);
    try {
      await using parts = await openParts(join(small, 'store'));
      await assert.rejects(parts.puller.pull(reference, { insecure: true }), {
        code: 'image.cache_full',
        message: /disk of the state directory is full/,
      });
      assert.deepEqual(parts.store.images(), []);
      assert.deepEqual(await readdir(parts.store.downloadsDirectory), []);
      await execute('mount', ['-o', `remount,size=${largeBytes * 4}`, small]);
      assert.equal((await parts.puller.pull(reference, { insecure: true })).layers.length, 2);
    } finally {
      await execute('umount', [small]);
    }
  }
});

const moduleOf = (path: string) => JSON.stringify(new URL(`../../${path}`, import.meta.url).href);

/** Pulls in a process that kills itself when it has taken `step` for the `time`th time. */
async function pullAndDie(options: {
  root: string;
  reference: string;
  step: string;
  time: number;
}): Promise<NodeJS.Signals | null> {
  const { root, reference, step, time } = options;
  const program = `
    import { channels } from ${moduleOf('host/base/channels.ts')};
    import { LayerStore } from ${moduleOf('host/image/layer-store.ts')};
    import { ImagePuller } from ${moduleOf('host/image/pull.ts')};
    import { RegistryClient } from ${moduleOf('host/image/registry/registry-client.ts')};
    let times = 0;
    channels.pullStep.subscribe((step) => {
      const isMeant = step === ${JSON.stringify(step)} && ++times === ${time};
      if (isMeant) process.kill(process.pid, 'SIGKILL');
    });
    const store = await LayerStore.open({ root: ${JSON.stringify(root)} });
    const client = new RegistryClient(${JSON.stringify(settings)});
    const puller = new ImagePuller({ store, client, downloadsMax: 2, layerBytesMax: 2 ** 30 });
    await puller.pull(${JSON.stringify(reference)}, { insecure: true });
    process.exit();`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const [, signal] = await once(child, 'exit');
  return signal as NodeJS.Signals | null;
}

describe('a host that is killed while it pulls', () => {
  for (const step of pullStepNames) {
    test(`after "${step}": nothing is half there, and the next pull succeeds`, async () => {
      await using registry = await HostileRegistry.start(layout);
      const reference = `${registry.host}/image:1`;
      const isOfLayer = step !== 'resolved' && step !== 'named';
      for (const time of isOfLayer ? [1, 2] : [1]) {
        const root = join(directory, `killed-${step}-${time}`);
        assert.equal(await pullAndDie({ root, reference, step, time }), 'SIGKILL');
        await using parts = await openParts(root);
        const { store } = parts;
        assert.equal(store.images().length, step === 'named' ? 1 : 0);
        assert.deepEqual(await readdir(store.downloadsDirectory), []);
        assert.deepEqual(await readdir(join(root, 'ingest')), []);
        const names = store.layers().map((layer) => layer.directoryName);
        assert.deepEqual((await readdir(join(root, 'layers'))).toSorted(), names.toSorted());
        assert.deepEqual((await readdir(join(root, 'trees'))).toSorted(), names.toSorted());
        const image = await parts.puller.pull(reference, { insecure: true });
        for (const { chainId } of image.layers)
          assert.deepEqual(await verifyLayer(store, chainId), []);
      }
    });
  }
});
