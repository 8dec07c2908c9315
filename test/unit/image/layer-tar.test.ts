import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { digestOf } from '../../../host/image/digest.ts';
import { writeLayer } from '../../../host/image/layer-tar.ts';
import type { Compression, LayerEntry } from '../../../host/image/layer-tar.ts';

const execute = promisify(execFile);

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-tar-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true });
});

let count = 0;
async function write(entries: LayerEntry[], compression: Compression = 'none') {
  const destination = join(directory, `layer-${++count}`);
  return { ...(await writeLayer({ entries, destination, compression })), file: destination };
}

const entries: LayerEntry[] = [
  { type: 'file', path: 'b/file', mode: 0o640, content: 'text', uid: 1000, gid: 1001 },
  { type: 'symlink', path: 'a', target: 'b/file' },
  { type: 'hardlink', path: '0', target: 'b/file' },
  { type: 'directory', path: 'c', mode: 0o1777 },
  { type: 'file', path: `long/${'n'.repeat(150)}`, mode: 0o644, content: new Uint8Array(2000) },
];

describe('writeLayer', () => {
  test('writes what GNU tar reads: parents first, hard links last', async () => {
    const { file } = await write(entries);
    const { stdout } = await execute('tar', ['--utc', '--numeric-owner', '-tvf', file]);
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => line.replace(/ +/g, ' '));
    assert.deepEqual(lines, [
      'lrwxrwxrwx 0/0 0 1970-01-01 00:00 a -> b/file',
      'drwxr-xr-x 0/0 0 1970-01-01 00:00 b/',
      '-rw-r----- 1000/1001 4 1970-01-01 00:00 b/file',
      'drwxrwxrwt 0/0 0 1970-01-01 00:00 c/',
      'drwxr-xr-x 0/0 0 1970-01-01 00:00 long/',
      `-rw-r--r-- 0/0 2000 1970-01-01 00:00 long/${'n'.repeat(150)}`,
      'hrw-r--r-- 0/0 0 1970-01-01 00:00 0 link to b/file',
    ]);
  });

  for (const compression of ['none', 'gzip', 'zstd'] as const)
    test(`has the same digests for the same entries in any order (${compression})`, async () => {
      const one = await write(entries, compression);
      const two = await write(entries.toReversed(), compression);
      assert.deepEqual({ ...two, file: '' }, { ...one, file: '' });
      const bytes = await readFile(one.file);
      assert.equal(one.digest, digestOf(bytes));
      assert.equal(one.sizeBytes, bytes.length);
      const open = { none: (b: Buffer) => b, gzip: gunzipSync, zstd: zstdDecompressSync };
      assert.equal(one.diffId, digestOf(open[compression](bytes)));
    });

  test('reads large files from the disk as if their content was given', async () => {
    const source = join(directory, 'source');
    const content = Buffer.alloc(3_000_000, 'abc');
    await writeFile(source, content);
    const fromFile = await write([{ type: 'file', path: 'f', mode: 0o755, file: source }]);
    const given = await write([{ type: 'file', path: 'f', mode: 0o755, content }]);
    assert.equal(fromFile.diffId, given.diffId);
  });

  test('takes the later of two entries of one path', async () => {
    const later: LayerEntry = { type: 'file', path: 'f', mode: 0o644, content: 'later' };
    const both = await write([{ ...later, content: 'earlier' }, later]);
    assert.equal(both.diffId, (await write([later])).diffId);
  });

  test('refuses paths that lead out and owners that a tar header cannot hold', async () => {
    for (const path of ['', '/abs', '../up', 'a/../b', 'a//b', './a', 'a/'])
      await assert.rejects(
        write([{ type: 'directory', path, mode: 0o755 }]),
        { code: 'image.invalid' },
        path,
      );
    await assert.rejects(write([{ type: 'symlink', path: 's', target: 't', uid: 2 ** 18 }]), {
      code: 'image.invalid',
    });
  });

  test('fails when a file is not there, and never overwrites one', async () => {
    const absent = join(directory, 'absent');
    await assert.rejects(write([{ type: 'file', path: 'f', mode: 0o644, file: absent }]), {
      code: 'ENOENT',
    });
    const destination = join(directory, 'there');
    await writeFile(destination, 'kept');
    await assert.rejects(writeLayer({ entries, destination, compression: 'none' }), {
      code: 'EEXIST',
    });
    assert.equal((await stat(destination)).size, 4);
  });
});
