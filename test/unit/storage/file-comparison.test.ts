import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { FileComparison, type FileChanges } from '../../../host/storage/file-comparison.ts';
import { withLayers } from '../../contract/storage-layers.ts';

const blockBytes = 4096;
const original = Buffer.alloc(100 * blockBytes + 10, 'x');

const cases: [string, (path: string) => void, number][] = [
  ['nothing', () => undefined, 0],
  ['one byte', (path) => writeAt(path, 5, 'y'), blockBytes],
  ['two bytes of neighbouring blocks', (path) => writeAt(path, blockBytes - 1, 'yy'), 8192],
  ['what was there already', (path) => writeAt(path, 0, 'xxxx'), 0],
  ['the end of the last block', (path) => writeAt(path, 100 * blockBytes + 9, 'y'), 10],
  ['more at the end', (path) => fs.appendFileSync(path, 'abc'), 3],
  ['a hole at the end', (path) => fs.truncateSync(path, 1 << 30), 0],
  ['a shorter file', (path) => fs.truncateSync(path, 3 * blockBytes), 0],
];
for (const [what, change, bytesChanged] of cases)
  test(`${what}: ${bytesChanged} bytes changed`, () =>
    withFiles(new FileComparison(), async ({ upper, compare }) => {
      change(upper);
      const changes = await compare();
      const slack = what === 'a hole at the end' ? 4 * blockBytes : 0;
      assert.ok((changes?.bytesChanged ?? -1) >= bytesChanged, JSON.stringify(changes));
      assert.ok((changes?.bytesChanged ?? 0) <= bytesChanged + slack, JSON.stringify(changes));
    }));

test('names the attributes that differ', () =>
  withFiles(new FileComparison(), async ({ upper, compare }) => {
    fs.chmodSync(upper, 0o600);
    fs.chownSync(upper, 5, 6);
    fs.utimesSync(upper, 1, 1);
    assert.deepEqual((await compare())?.attributesChanged, ['mode', 'owner', 'times']);
  }));

test('a file past the allowance is not compared, nor one when it is used up', () =>
  withFiles(
    new FileComparison({ bytesPerSecond: 0, bytesMax: original.length * 2 }),
    async ({ compare }) => {
      const results = [await compare(), await compare(), await compare()];
      assert.deepEqual(
        results.map((changes) => changes?.bytesChanged),
        [0, 0, undefined],
      );
    },
  ));

test('what has gone, or is a pipe or a link by now, is not compared', () =>
  withFiles(new FileComparison(), async ({ upper, compare }) => {
    fs.renameSync(upper, `${upper}.old`);
    assert.equal(await compare(), undefined);
    fs.symlinkSync(`${upper}.old`, upper);
    assert.equal(await compare(), undefined);
    fs.rmSync(upper);
    fs.mkdirSync(upper);
    assert.equal(await compare(), undefined);
  }));

function writeAt(path: string, position: number, text: string): void {
  const fd = fs.openSync(path, 'r+');
  fs.writeSync(fd, text, position);
  fs.closeSync(fd);
}

async function withFiles(
  comparison: FileComparison,
  body: (files: {
    upper: string;
    compare: () => Promise<FileChanges | undefined>;
  }) => Promise<void>,
): Promise<void> {
  await withLayers(async (layers) => {
    const [lower, upper] = ['lower', 'upper'].map(
      (name) => `${layers.make({ [name]: original })}/${name}`,
    ) as [string, string];
    fs.utimesSync(lower, 1e6, 1e6);
    fs.utimesSync(upper, 1e6, 1e6);
    const lowerFd = fs.openSync(lower, 'r');
    try {
      const compare = () => comparison.compare({ upperPath: upper, lowerFd });
      await body({ upper, compare });
    } finally {
      fs.closeSync(lowerFd);
    }
  });
}
