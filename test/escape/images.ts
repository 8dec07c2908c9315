/** Checks 78 to 81: layers as somebody hostile would make them. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { digestOf } from '../../host/image/digest.ts';
import { startHost, type TestHost } from '../support/host.ts';
import { waitFor } from '../support/host-processes.ts';
import { nameHost } from '../support/named-host.ts';
import { tarOf } from '../support/unpack-bench.ts';
import type { Check } from './check.ts';
import { deployBlob, deployLayer, type LayerEntry } from './hostile-layer.ts';

const invalid = { code: 'image.invalid' };
const zeros = 64 * 2 ** 20;
const bigLayerBytes = 8 * 2 ** 20;

export const imageChecks: readonly Check[] = [
  {
    number: 78,
    what: 'a tar that leads outside, or brings devices, writes nothing anywhere else',
    async run({ host }) {
      const directory = mkdtempSync(join(tmpdir(), 'hatch-outside-'));
      try {
        writeFileSync(join(directory, 'secret'), 'untouched');
        const link = { name: 'a', type: 'symlink', linkname: directory } as const;
        const hostile: LayerEntry[][] = [
          [{ name: '../../../../../../../../tmp/hatch-escaped', text: 'x' }],
          [{ name: '/tmp/../../hatch-escaped', text: 'x' }],
          [{ name: 'h', type: 'link', linkname: join(directory, 'secret') }],
          [{ name: 'h', type: 'link', linkname: '../../../../../../../etc/shadow' }],
          [{ name: '.wh...', text: '' }],
          [{ name: 'sda', type: 'block-device', devmajor: 8, devminor: 0 }],
          [{ name: 'mem', type: 'character-device', devmajor: 1, devminor: 1 }],
        ];
        for (const [at, entries] of hostile.entries())
          await assert.rejects(deployLayer(host, `tar-${at}`, entries), invalid, String(at));
        // What is followed is followed inside the layer.
        await deployLayer(host, 'tar-link', [link, { name: 'a/secret', text: 'changed' }]).catch(
          (error: { code: string }) => assert.equal(error.code, 'image.invalid'),
        );
        assert.deepEqual(readdirSync(directory), ['secret']);
        assert.equal(readFileSync(join(directory, 'secret'), 'utf8'), 'untouched');
        assert.ok(!existsSync('/tmp/hatch-escaped') && !existsSync('/hatch-escaped'));
        await deployLayer(host, 'tar-good', [{ name: 'srv/x', text: 'x' }]);
      } finally {
        rmSync(directory, { recursive: true });
      }
    },
  },
  {
    number: 79,
    what: 'wrong digests and sizes, cut archives and bombs are refused, and leave nothing',
    async run(subject) {
      const { host } = subject;
      const before = layersOf(subject);
      const tar = await tarOf([[{ name: 'function/handler.cjs' }, 'exports.handler = () => 1;']]);
      const zipped = gzipSync(tar);
      const diffId = digestOf(tar);
      const wrong = digestOf(Buffer.from('something else'));
      await assert.rejects(deployBlob(host, 'diff-id', tar, { diffId: wrong }), invalid);
      await assert.rejects(deployBlob(host, 'size', tar, { sizeBytes: tar.length - 1 }), invalid);
      const cut = zipped.subarray(0, zipped.length - 20);
      await assert.rejects(deployBlob(host, 'cut', cut, { diffId }), invalid);
      // Says that it has one file of 8 TiB, and a billion zeros to show for it.
      const bomb = gzipSync(Buffer.concat([hugeHeader(), Buffer.alloc(zeros)]));
      assert.ok(bomb.length < zeros / 500);
      await assert.rejects(deployBlob(host, 'bomb', bomb, { diffId }), invalid);
      assert.deepEqual(layersOf(subject), before);
      await deployBlob(host, 'right', zipped, { diffId });
      assert.equal(layersOf(subject).length, before.length + 1);
    },
  },
  {
    number: 80,
    what: 'a layer that several want at once is unpacked once',
    async run(subject) {
      const { host } = subject;
      const before = layersOf(subject);
      const entries = [{ name: 'srv/shared', text: 'once'.repeat(1000) }];
      const names = ['one', 'two', 'three', 'four'].map((name) => `same-${name}`);
      await Promise.all(names.map((name) => deployLayer(host, name, entries)));
      assert.equal(layersOf(subject).length, before.length + 1);
      for (const name of names) assert.equal((await host.call(name)).json(), 'started');
      await assertWholeAfterKill();
    },
  },
  {
    number: 81,
    what: 'a layer in use is never evicted',
    async run(subject) {
      const { host, probe } = subject;
      const before = layersOf(subject);
      await host.deploy('test/functions/probe', { name: 'to-be-removed' });
      await host.client.ask('rm', { name: 'to-be-removed' });
      // The same layer, which others still use.
      assert.equal(await probe.ask<boolean>({ do: 'write', path: '/tmp/x', text: '' }), true);
      const { stdout } = await probe.ask<{ stdout: string }>({
        do: 'run',
        command: ['sha256sum', '/function/handler.mjs', '/function/probe'],
      });
      assert.match(stdout, /\/function\/probe/);
      for (const layer of before) assert.ok(layersOf(subject).includes(layer), layer);
      await assertKeptInUse();
    },
  },
];

/** Killed while it unpacks a layer, a host has none of it afterwards, and then all of it. */
async function assertWholeAfterKill(): Promise<void> {
  const named = await nameHost({ parked: 0 });
  let host = await startHost({ config: named.config });
  try {
    const files = Array.from({ length: 3000 }, (_, at) => ({
      name: `srv/${at}`,
      text: `${at}`.repeat(500),
    }));
    const before = layersOf({ host });
    const counting = `exports.handler = () => {
      const fs = require('node:fs');
      const names = fs.readdirSync('/srv');
      const isWhole = (name) => fs.readFileSync('/srv/' + name, 'utf8') === name.repeat(500);
      return names.filter(isWhole).length;
    };`;
    const deploying = deployLayer(host, 'many', files, { handler: counting }).catch(
      () => undefined,
    );
    const unpacking = join(host.stateDirectory, 'images');
    await waitFor('it unpacks', () =>
      entriesBelow(unpacking).some((path) => /srv\/\d+$/.test(path)),
    );
    await host.kill();
    await deploying;
    host = await startHost({ config: host.config });
    assert.deepEqual(layersOf({ host }), before);
    await deployLayer(host, 'many', files, { handler: counting });
    assert.equal((await host.call('many')).json(), files.length);
  } finally {
    await host.stop();
    await named.assertNothingLeft();
  }
}

/** With room for a few layers, those of running functions stay, and go when they are given back. */
async function assertKeptInUse(): Promise<void> {
  const named = await nameHost({ parked: 0 });
  let host = await startHost({ config: named.config });
  try {
    const { reply } = await host.client.askAny('image.ls', {});
    await host.stop({ keepState: true });
    const layerCacheBytes = reply.usedBytes + 3.5 * bigLayerBytes;
    host = await startHost({ config: { ...host.config, layerCacheBytes } });
    const big = (name: string) =>
      deployLayer(host, name, [{ name: 'srv/big', text: name.padEnd(bigLayerBytes) }]);
    const base = layersOf({ host });
    await big('kept');
    const [kept = ''] = layersOf({ host }).filter((layer) => !base.includes(layer));
    const others = Array.from({ length: 5 }, (_, at) => `other-${at}`);
    for (const name of others) {
      const [reply] = await Promise.all([host.call('kept'), big(name)]);
      assert.equal(reply.json(), 'started');
      await host.client.ask('rm', { name });
    }
    assert.ok(layersOf({ host }).includes(kept));
    assert.ok(layersOf({ host }).length < base.length + others.length, 'none was evicted');
    await host.client.ask('rm', { name: 'kept' });
    for (const name of others.map((other) => `${other}-again`)) {
      await big(name);
      await host.client.ask('rm', { name });
    }
    assert.ok(!layersOf({ host }).includes(kept), 'what nobody uses stays for good');
  } finally {
    await host.stop();
    await named.assertNothingLeft();
  }
}

function entriesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' });
}

function layersOf({ host }: { host: Pick<TestHost, 'stateDirectory'> }): string[] {
  return readdirSync(join(host.stateDirectory, 'images/layers')).toSorted();
}

/** A ustar header of a file of as many bytes as its field can say. */
function hugeHeader(): Buffer {
  const header = Buffer.alloc(512);
  header.write('function/huge', 0);
  header.write('0000644\0', 100);
  header.write('77777777777\0', 124);
  header.write('00000000000\0', 136);
  header.write('0', 156);
  header.write('ustar\u000000', 257);
  header.fill(' ', 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return header;
}
