/** Layers made to do harm. */
import assert from 'node:assert/strict';
import { lstatSync, readlinkSync } from 'node:fs';
import { mkdir, mkdtemp, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import type { UnpackLimits } from '../../host/image/unpack.ts';
import { UnpackBench, tarOf } from '../support/unpack-bench.ts';
import type { Entry } from '../support/unpack-bench.ts';

let bench: UnpackBench;

beforeEach(async () => {
  bench = await UnpackBench.create();
});
afterEach(async () => {
  await bench.remove();
});

describe('a layer that wants out', () => {
  test('by "..", in any position', async () => {
    for (const name of ['../outside/x', 'a/../../outside/x', '..', 'a/..', '/../outside/x'])
      await bench.refused([[{ name }, 'x']], /climbs with "\.\."/);
    for (const linkname of ['../outside/secret', '/../outside/secret'])
      await bench.refused([[{ name: 'x', type: 'link', linkname }]], /climbs with "\.\."/);
  });

  test('by absolute names, which are taken from its own root', async () => {
    await bench.apply([[{ name: join(bench.outside, 'x') }, 'x']]);
    assert.equal(bench.text(bench.outside, 'x'), 'x');
  });

  test('by symlinked parents, which are taken from its own root', async () => {
    await bench.apply([
      [{ name: 'absolute', type: 'symlink', linkname: bench.outside }],
      [{ name: 'absolute/x' }, '1'],
      [{ name: 'relative', type: 'symlink', linkname: '../../../../outside' }],
      [{ name: 'relative/x' }, '2'],
      [{ name: 'one', type: 'symlink', linkname: 'relative' }],
      [{ name: 'two', type: 'symlink', linkname: 'one/deeper' }],
      [{ name: 'two/x' }, '3'],
      [{ name: 'two/.wh.secret' }],
      [{ name: 'self', type: 'symlink', linkname: '.' }],
      [{ name: 'self/self/y' }, '4'],
    ]);
    assert.equal(bench.text(bench.outside, 'x'), '1');
    assert.equal(bench.text('outside', 'x'), '2');
    assert.equal(bench.text('outside', 'deeper', 'x'), '3');
    assert.equal(bench.text('y'), '4');
  });

  test("by a symlink that takes a directory's or a file's place", async () => {
    await bench.apply([
      [{ name: 'd/', type: 'directory', mode: 0o700 }],
      [{ name: 'd/e/', type: 'directory', mode: 0o700 }],
      [{ name: 'd/e/secret' }, 'inside'],
      [{ name: 'd/e', type: 'symlink', linkname: bench.outside }],
      [{ name: 'd', type: 'symlink', linkname: bench.directory }],
      [{ name: 'f', type: 'symlink', linkname: join(bench.outside, 'secret') }],
      [{ name: 'f', mode: 0o777 }, 'overwritten'],
      [{ name: 'o', type: 'symlink', linkname: bench.outside }],
      [{ name: 'o/', type: 'directory', mode: 0o777 }],
    ]);
    assert.equal(readlinkSync(join(bench.layer, 'd')), bench.directory);
    assert.equal(bench.text('f'), 'overwritten');
    assert.ok(lstatSync(join(bench.layer, 'o')).isDirectory());
  });

  test('by a symlink loop', () =>
    bench.refused(
      [
        [{ name: 'a', type: 'symlink', linkname: 'b' }],
        [{ name: 'b', type: 'symlink', linkname: 'a' }],
        [{ name: 'a/x' }, 'x'],
      ],
      /symlink loop/,
    ));

  test('by a hard link to a symlink, or to what is not in the layer', async () => {
    await bench.apply([
      [{ name: 's', type: 'symlink', linkname: join(bench.outside, 'secret') }],
      [{ name: 'h', type: 'link', linkname: 's' }],
      [{ name: 'h' }, 'a file of its own'],
    ]);
    assert.equal(bench.text('h'), 'a file of its own');
    const secret = join(bench.outside, 'secret');
    for (const linkname of [secret, 'none', 'd', '.wh.x'])
      await bench.refused(
        [
          [{ name: 'd/', type: 'directory' }],
          [{ name: '.wh.x' }],
          [{ name: `h-${linkname.length}`, type: 'link', linkname }],
        ],
        /is no file of this layer/,
      );
    await bench.refused(
      [
        [{ name: 'up', type: 'symlink', linkname: bench.outside }],
        [{ name: 'z', type: 'link', linkname: 'up/secret' }],
      ],
      /is no file of this layer/,
    );
  });

  test('by lower layers whose names lead outside', async () => {
    const lower = join(bench.directory, 'lower');
    const hidden = join(bench.directory, 'hidden');
    await mkdir(lower);
    await mkdir(hidden);
    await symlink(bench.outside, join(lower, 'l'));
    await symlink(bench.outside, join(hidden, 'd'));
    await mkdir(join(lower, 'd'));
    await bench.apply(
      [
        [{ name: 'l/x' }, '1'],
        [{ name: 'd/secret/x' }, '2'],
      ],
      {
        lowers: [lower, hidden],
      },
    );
    assert.equal(bench.text(bench.outside, 'x'), '1');
    assert.equal(bench.text('d/secret/x'), '2');
  });

  test('by a file as a parent', () =>
    bench.refused(
      [
        [{ name: 'f' }, 'x'],
        [{ name: 'f/x' }, 'x'],
      ],
      /"f" is a file/,
    ));

  test('by devices', async () => {
    for (const type of ['character-device', 'block-device'] as const)
      for (const devminor of [0, 3])
        await bench.refused(
          [[{ name: 'null', type, devmajor: devminor && 1, devminor }]],
          /are not allowed in layers/,
        );
  });
});

describe('a layer without measure', () => {
  test('in entries, bytes, or bytes claimed', async () => {
    const files: [Entry, string][] = Array.from({ length: 5 }, (_, i) => [
      { name: `f${i}` },
      'x'.repeat(100),
    ]);
    const limited = async (limits: Partial<UnpackLimits>, limit: string) =>
      assert.rejects(bench.apply(files, { limits }), (error: { details?: { limit?: string } }) => {
        assert.equal(error.details?.limit, limit);
        return true;
      });
    await limited({ entriesMax: 4 }, 'entriesMax');
    await limited({ unpackedBytesMax: 499 }, 'unpackedBytesMax');
    await bench.apply(files, { limits: { entriesMax: 5, unpackedBytesMax: 500 } });
    await assert.rejects(
      bench.apply([[{ name: 'f', pax: { size: '1000000000000000000' } }, 'x']]),
      {
        code: 'image.invalid',
        message: /more than \d+ bytes/,
      },
    );
  });

  test('in compression: a bomb of zeros after the end of the tar is cut off', async () => {
    const tar = Buffer.concat([
      await tarOf([[{ name: 'f' }, 'x']]),
      Buffer.alloc(64 * 1024 * 1024),
    ]);
    for (const blob of [gzipSync(tar), zstdCompressSync(tar)])
      await assert.rejects(
        bench.applyTar(tar, { blob, limits: { unpackedBytesMax: 1000, entriesMax: 10 } }),
        { code: 'image.invalid', message: /more than 1000 bytes/ },
      );
  });

  test('in compression: many times larger than what was sent', async () => {
    const tar = await tarOf([[{ name: 'f' }, '0'.repeat(66 * 1024 * 1024)]]);
    const blob = zstdCompressSync(tar);
    await assert.rejects(bench.applyTar(tar, { blob }), {
      code: 'image.invalid',
      message: /more than 200 times larger unpacked, raise "expansionMax"/,
    });
    const into = await mkdtemp(join(bench.directory, 'allowed-'));
    await bench.applyTar(tar, { blob, into, limits: { expansionMax: 100_000 } });
  });

  test('in headers, which the reader keeps in memory', async () => {
    const claimedBytes = 2 ** 31;
    for (const typeflag of ['x', 'g', 'L', 'K']) {
      const header = await tarOf([[{ name: 'f' }]]);
      const long = withField(header.subarray(0, 512), { typeflag, size: claimedBytes });
      // Zeros compress so well that the blob is small; it is never read to its end.
      const tar = Buffer.concat([long, Buffer.alloc(48 * 1024 * 1024)]);
      const before = process.memoryUsage().rss;
      await assert.rejects(bench.applyTar(tar, { blob: zstdCompressSync(tar) }), {
        code: 'image.invalid',
        message: /Header exceeds max size/,
      });
      assert.ok(process.memoryUsage().rss - before < 40 * 1024 * 1024);
    }
  });

  test('in names', async () => {
    await bench.refused([[{ name: 'n'.repeat(256) }, 'x']], /longer than 255 bytes/);
    await bench.refused([[{ name: `${'d/'.repeat(300)}f` }, 'x']], /deeper than 256/);
    await bench.refused(
      [[{ name: `${'n'.repeat(99)}/`.repeat(50) }, 'x']],
      /longer than 4095 bytes/,
    );
    await bench.refused([[{ name: 'f', pax: { path: 'a\0b' } }, 'x']], /NUL/);
  });
});

describe('a layer that is broken', () => {
  test('cut short, at any place', async () => {
    const tar = await tarOf([[{ name: 'f' }, 'x'.repeat(3000)]]);
    for (const blob of [gzipSync(tar), zstdCompressSync(tar), tar]) {
      for (const part of [0.2, 0.5, 0.95]) {
        const into = await mkdtemp(join(bench.directory, 'cut-'));
        const cut = blob.subarray(0, Math.floor(blob.length * part));
        await assert.rejects(bench.applyTar(tar, { blob: cut, into }), { code: 'image.invalid' });
      }
    }
  });

  test('not a tar, or with impossible fields', async () => {
    await assert.rejects(bench.applyTar(Buffer.alloc(2048, 'x')), {
      code: 'image.invalid',
      message: /Invalid tar header/,
    });
    await bench.refused([[{ name: 'f', pax: { uid: '-1' } }, 'x']], /its owner is -1/);
    await bench.refused([[{ name: 'f', pax: { 'GNU.sparse.major': '1' } }, 'x']], /sparse/);
    await bench.refused([[{ name: './' }, 'x']], /the root must be a directory/);
  });
});

/** A header block with another type and size, and the checksum that goes with them. */
function withField(block: Buffer, field: { typeflag: string; size: number }): Buffer {
  const changed = Buffer.from(block);
  changed.write(`${field.size.toString(8).padStart(11, '0')} `, 124, 'latin1');
  changed.write(field.typeflag, 156, 'latin1');
  changed.fill(' ', 148, 156);
  const sum = changed.reduce((total, byte) => total + byte, 0);
  changed.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return changed;
}
