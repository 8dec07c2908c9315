/** Layers as the OCI image specification says. */
import assert from 'node:assert/strict';
import { closeSync, lstatSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { digestOf } from '../../host/image/digest.ts';
import { unpackLayer } from '../../host/image/unpack.ts';
import { getAttribute, listAttributes } from '../../host/sys/file.ts';
import { attachMount, createMount, detachMount } from '../../host/sys/mount.ts';
import { UnpackBench, tarOf } from '../support/unpack-bench.ts';

let bench: UnpackBench;

beforeEach(async () => {
  bench = await UnpackBench.create();
});
afterEach(async () => {
  await bench.remove();
});

function isWhiteout(path: string): boolean {
  const stats = lstatSync(path);
  return stats.isCharacterDevice() && stats.rdev === 0;
}

function isOpaque(path: string): boolean {
  return getAttribute(path, 'trusted.overlay.opaque')?.toString() === 'y';
}

describe('what a layer holds', () => {
  test('files, directories, links, fifos with owner, mode and time', async () => {
    const result = await bench.apply([
      [{ name: './', type: 'directory', mode: 0o750, uid: 3, gid: 4 }],
      [{ name: 'd/', type: 'directory', mode: 0o1777, uid: 1000, gid: 1001 }],
      [{ name: 'd/f', mode: 0o4755, uid: 1000, gid: 1000 }, 'content'],
      [{ name: 'd/hard', type: 'link', linkname: 'd/f' }],
      [{ name: 'soft', type: 'symlink', linkname: '/d/f', uid: 7, gid: 8 }],
      [{ name: 'fifo', type: 'fifo', mode: 0o600 }],
      [{ name: 'made/up/parents', mode: 0o644 }, 'x'],
    ]);
    assert.equal(result.unpackedBytes, 'content'.length + 1);
    const stats = (path: string) => {
      const { mode, uid, gid, mtimeMs } = lstatSync(join(bench.layer, path));
      return [mode & 0o7777, uid, gid, mtimeMs];
    };
    assert.deepEqual(stats('.'), [0o750, 3, 4, 5000]);
    assert.deepEqual(stats('d'), [0o1777, 1000, 1001, 5000]);
    assert.deepEqual(stats('d/f'), [0o4755, 1000, 1000, 5000]);
    assert.deepEqual(stats('soft'), [0o777, 7, 8, 5000]);
    assert.deepEqual(stats('made/up').slice(0, 3), [0o755, 0, 0]);
    assert.equal(
      lstatSync(join(bench.layer, 'd/hard')).ino,
      lstatSync(join(bench.layer, 'd/f')).ino,
    );
    assert.equal(readlinkSync(join(bench.layer, 'soft')), '/d/f');
    assert.ok(lstatSync(join(bench.layer, 'fifo')).isFIFO());
  });

  test('plain, gzip, zstd, and in pieces of one byte', async () => {
    const tar = await tarOf([[{ name: 'f' }, 'content']]);
    for (const [name, blob] of Object.entries({
      plain: tar,
      gzip: gzipSync(tar),
      zstd: zstdCompressSync(tar),
    })) {
      const into = join(bench.directory, name);
      await mkdir(into);
      await unpackLayer({
        source: {
          blob: Readable.from([...blob].map((byte) => Buffer.from([byte]))),
          digest: digestOf(blob),
          sizeBytes: blob.length,
          diffId: digestOf(tar),
        },
        directory: into,
        lowers: [],
      });
      assert.equal(readFileSync(join(into, 'f'), 'utf8'), 'content');
    }
  });

  test('of entries of one name the last counts, whatever they are', async () => {
    await bench.apply([
      [{ name: 'a' }, 'file'],
      [{ name: 'a/', type: 'directory' }],
      [{ name: 'a/in' }, 'x'],
      [{ name: 'b/', type: 'directory' }],
      [{ name: 'b/in' }, 'x'],
      [{ name: 'b' }, 'file'],
      [{ name: 'c' }, 'long content'],
      [{ name: 'c' }, 'short'],
      [{ name: 'd', type: 'symlink', linkname: 'c' }],
      [{ name: 'd' }, 'file'],
      [{ name: 'e/', type: 'directory', mode: 0o700 }],
      [{ name: 'e/in' }, 'kept'],
      [{ name: 'e/', type: 'directory', mode: 0o755 }],
    ]);
    assert.deepEqual(readdirSync(join(bench.layer, 'a')), ['in']);
    assert.equal(bench.text('b'), 'file');
    assert.equal(bench.text('c'), 'short');
    assert.equal(bench.text('d'), 'file');
    assert.equal(bench.text('e/in'), 'kept');
    assert.equal(lstatSync(join(bench.layer, 'e')).mode & 0o777, 0o755);
  });

  test('long names and user attributes from pax records', async () => {
    const long = `${'n'.repeat(200)}/${'m'.repeat(200)}`;
    const pax = {
      'SCHILY.xattr.user.note': 'grüße',
      'SCHILY.xattr.user.overlay.opaque': 'y',
      'SCHILY.xattr.trusted.overlay.opaque': 'y',
      'SCHILY.xattr.trusted.overlay.redirect': '/etc',
      'SCHILY.xattr.security.capability': 'x',
      'SCHILY.xattr.security.selinux': 'label',
      uid: '70000',
      mtime: '12.5',
    };
    await bench.apply([[{ name: long, pax }, 'x'], [{ name: 'dir/', type: 'directory', pax }]]);
    for (const path of [join(bench.layer, long), join(bench.layer, 'dir')]) {
      assert.deepEqual(listAttributes(path), ['user.note']);
      assert.equal(getAttribute(path, 'user.note')?.toString(), 'grüße');
      assert.equal(lstatSync(path).uid, 70_000);
      assert.equal(lstatSync(path).mtimeMs, 12_500);
    }
  });
});

describe('what a layer deletes', () => {
  test('a whiteout becomes a character device 0:0, an opaque directory an attribute', async () => {
    await bench.apply([
      [{ name: 'd/.wh.gone' }],
      [{ name: 'o/new' }, 'x'],
      [{ name: 'o/.wh..wh..opq' }],
      [{ name: '.wh..wh.plnk/1.2' }, 'x'],
    ]);
    assert.ok(isWhiteout(join(bench.layer, 'd', 'gone')));
    assert.ok(isOpaque(join(bench.layer, 'o')));
    assert.ok(!isOpaque(join(bench.layer, 'd')));
    assert.equal(bench.text('o', 'new'), 'x');
  });

  test('only of layers below: what the same layer brings stays, in either order', async () => {
    await bench.apply([
      [{ name: 'a' }, 'new'],
      [{ name: '.wh.a' }],
      [{ name: '.wh.b' }],
      [{ name: 'b' }, 'new'],
      [{ name: 'c/in' }, 'new'],
      [{ name: '.wh.c' }],
      [{ name: '.wh.d' }],
      [{ name: 'd/', type: 'directory' }],
      [{ name: '.wh.e' }],
      [{ name: 'e/in' }, 'new'],
    ]);
    assert.equal(bench.text('a'), 'new');
    assert.equal(bench.text('b'), 'new');
    assert.equal(bench.text('c/in'), 'new');
    assert.equal(bench.text('e/in'), 'new');
    for (const name of ['c', 'd', 'e']) assert.ok(isOpaque(join(bench.layer, name)), name);
  });

  test('seen through overlayfs, with parents that layers below have made', async () => {
    const lower = join(bench.directory, 'lower');
    await mkdir(lower);
    await bench.apply(
      [
        [{ name: 'usr/', type: 'directory', mode: 0o750, uid: 5, gid: 6 }],
        [{ name: 'usr/lib/old' }, 'old'],
        [{ name: 'lib', type: 'symlink', linkname: 'usr/lib' }],
        [{ name: 'dir/one' }, '1'],
        [{ name: 'dir/two' }, '2'],
      ],
      { into: lower },
    );
    await bench.apply(
      [
        [{ name: 'lib/new' }, 'new'],
        [{ name: 'lib/.wh.old' }],
        [{ name: 'dir/.wh..wh..opq' }],
        [{ name: 'dir/three' }, '3'],
      ],
      { lowers: [lower] },
    );
    // The parent that the tar does not name is the directory that the symlink below leads to.
    assert.deepEqual(readdirSync(bench.layer).toSorted(), ['dir', 'usr']);
    const merged = join(bench.directory, 'merged');
    await mkdir(merged);
    const mount = createMount({
      type: 'overlay',
      options: [{ key: 'lowerdir', value: `${bench.layer}:${lower}` }],
      attributes: 0,
    });
    try {
      attachMount(mount, merged);
      assert.deepEqual(readdirSync(join(merged, 'lib')), ['new']);
      assert.deepEqual(readdirSync(join(merged, 'dir')), ['three']);
      assert.equal(readlinkSync(join(merged, 'lib')), 'usr/lib');
      const { mode, uid, gid } = lstatSync(join(merged, 'usr'));
      assert.deepEqual([mode & 0o7777, uid, gid], [0o750, 5, 6]);
    } finally {
      detachMount(merged);
      closeSync(mount);
    }
  });

  for (const name of ['.wh.', 'd/.wh..', 'd/.wh...'])
    test(`"${name}" deletes no name and is refused`, () =>
      bench.refused([[{ name }]], /deletes no name/));
});
