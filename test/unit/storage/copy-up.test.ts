import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import type { CopyUp } from '../../../host/base/channels.ts';
import { CopyUpTracker, findCopyUps } from '../../../host/storage/copy-up.ts';
import { MemoryScratch } from '../../../host/storage/memory-scratch.ts';
import { OverlayDriver } from '../../../host/storage/overlay.ts';
import type { WritableRoot } from '../../../host/storage/storage-driver.ts';
import { withLayers } from '../../contract/storage-layers.ts';

const fileBytes = 100_000;
const content = Buffer.alloc(fileBytes, 'x');

describe('copy-ups', () => {
  test('nothing written: nothing found', () =>
    withRoot({ file: content }, async (root) => {
      assert.deepEqual(await findCopyUps(root), []);
    }));

  test('reading, new files, replaced and deleted files are none', () =>
    withRoot({ read: content, replaced: content, deleted: content }, async (root) => {
      fs.readFileSync(at(root, 'read'));
      fs.writeFileSync(at(root, 'new'), content);
      fs.writeFileSync(at(root, 'temporary'), content);
      fs.renameSync(at(root, 'temporary'), at(root, 'replaced'));
      fs.rmSync(at(root, 'deleted'));
      fs.writeFileSync(at(root, 'deleted'), 'made anew');
      assert.deepEqual(await findCopyUps(root), []);
    }));

  test('one byte, a changed mode or a new name copy the whole file', () =>
    withRoot({ 'a/byte': content, 'a/mode': content, 'a/name': content }, async (root) => {
      fs.appendFileSync(at(root, 'a/byte'), '+');
      fs.chmodSync(at(root, 'a/mode'), 0o600);
      fs.renameSync(at(root, 'a/name'), at(root, 'renamed'));
      assert.deepEqual(sorted(await findCopyUps(root)), [
        {
          path: '/a/byte',
          bytesCopied: fileBytes,
          bytesChanged: 1,
          attributesChanged: ['times'],
        },
        {
          path: '/a/mode',
          bytesCopied: fileBytes,
          bytesChanged: 0,
          attributesChanged: ['mode'],
        },
        { path: '/renamed', bytesCopied: fileBytes, bytesChanged: 0, attributesChanged: [] },
      ]);
    }));

  test('opening to overwrite copies no data', () =>
    withRoot({ file: content }, async (root) => {
      fs.writeFileSync(at(root, 'file'), 'short');
      assert.deepEqual(sizes(await findCopyUps(root)), [['/file', 0]]);
    }));

  test('a hard-linked file is copied once, under the name that was written to', () =>
    withRoot(
      { one: content },
      async (root) => {
        fs.appendFileSync(at(root, 'two'), '+');
        fs.appendFileSync(at(root, 'one'), '+');
        const found = await findCopyUps(root);
        assert.equal(found.length, 1);
        assert.equal(found[0]?.bytesCopied, fileBytes);
      },
      (layer) => fs.linkSync(`${layer}/one`, `${layer}/two`),
    ));

  test('the size is that of the layer the file came from', () =>
    withLayers(async (layers) => {
      const mountPoints = layers.path('state');
      const driver = OverlayDriver.open(new MemoryScratch({ sizeBytes: 1 << 20, mountPoints }));
      const lowerDirectories = [
        layers.make({ file: content, below: content }),
        layers.make({ file: 'short' }),
      ];
      const root = driver.createRoot({ id: 'a', lowerDirectories, ownerUid: 0, ownerGid: 0 });
      fs.appendFileSync(at(root, 'file'), '+');
      fs.appendFileSync(at(root, 'below'), '+');
      assert.deepEqual(sizes(sorted(await findCopyUps(root))), [
        ['/below', fileBytes],
        ['/file', 5],
      ]);
      await driver.close();
    }));
});

describe('CopyUpTracker', () => {
  test('tells each copy-up once, in the look after it happened', () =>
    withRoot({ 'a/1': content, 'a/2': content, 'b/c/3': content }, async (root) => {
      const tracker = new CopyUpTracker(root);
      const rounds = ['a/1', 'b/c/3', 'a/2'];
      for (const path of rounds) {
        fs.appendFileSync(at(root, path), '+');
        assert.deepEqual(sizes(await tracker.look()), [[`/${path}`, fileBytes]]);
        fs.appendFileSync(at(root, path), '+');
        assert.deepEqual(await tracker.look(), []);
      }
    }));

  test('sees what changes in the same tick as a look, and after a long quiet', () =>
    withRoot(
      Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`d/${i}`, content])),
      async (root) => {
        const tracker = new CopyUpTracker(root);
        for (let i = 0; i < 200; i++) {
          fs.appendFileSync(at(root, `d/${i}`), '+');
          const found = await tracker.look();
          assert.deepEqual(
            found.map(({ path }) => path),
            [`/d/${i}`],
          );
          if (i % 50 === 0) await new Promise((done) => setTimeout(done, 30));
        }
      },
    ));

  test('a renamed copy is not told again', () =>
    withRoot({ file: content }, async (root) => {
      const tracker = new CopyUpTracker(root);
      fs.appendFileSync(at(root, 'file'), '+');
      assert.equal((await tracker.look()).length, 1);
      fs.renameSync(at(root, 'file'), at(root, 'moved'));
      assert.deepEqual(await tracker.look(), []);
    }));

  test('looks at once take turns and tell everything once between them', () =>
    withRoot({ 1: content, 2: content, 3: content }, async (root) => {
      const tracker = new CopyUpTracker(root);
      for (const name of ['1', '2', '3']) fs.appendFileSync(at(root, name), '+');
      const looks = await Promise.all([tracker.look(), tracker.look(), tracker.look()]);
      assert.equal(looks.flat().length, 3);
    }));

  test('a symbolic link in the upper leads nowhere', () =>
    withRoot({ 'dir/file': content }, (other) => {
      fs.appendFileSync(at(other, 'dir/file'), '+');
      return withRoot({ file: content }, async (root) => {
        fs.symlinkSync(other.upperDirectory, at(root, 'to-directory'));
        fs.symlinkSync(`${other.upperDirectory}/dir/file`, at(root, 'to-file'));
        assert.deepEqual(await findCopyUps(root), []);
        assert.equal((await findCopyUps(other)).length, 1);
      });
    }));

  test('ends at its limit and says so', () =>
    withRoot({ file: content }, async (root) => {
      for (let i = 0; i < 50; i++) fs.writeFileSync(at(root, `new-${i}`), '');
      const tracker = new CopyUpTracker(root, { entriesMax: 20 });
      await tracker.look();
      assert.equal(tracker.complete, false);
      const patient = new CopyUpTracker(root, { entriesMax: 200 });
      await patient.look();
      assert.equal(patient.complete, true);
    }));

  test('directories nested deeper than a path is long are entered up to the limit', () =>
    withRoot({ 'd/file': content }, async (root) => {
      fs.appendFileSync(at(root, 'd/file'), '+');
      const fds = [fs.openSync(at(root), 'r')];
      for (let i = 0; i < 140; i++) {
        const here = `/proc/self/fd/${fds.at(-1)}/${'n'.repeat(200)}`;
        fs.mkdirSync(here);
        fds.push(fs.openSync(here, 'r'));
      }
      fds.forEach((fd) => fs.closeSync(fd));
      const tracker = new CopyUpTracker(root);
      assert.deepEqual(sizes(await tracker.look()), [['/d/file', fileBytes]]);
      assert.equal(tracker.complete, false);
    }));

  test('a long look lets other work run', () =>
    withRoot({ file: content }, async (root) => {
      for (let i = 0; i < 3000; i++) fs.writeFileSync(at(root, `new-${i}`), '');
      let turns = 0;
      const timer = setInterval(() => turns++, 1);
      await new CopyUpTracker(root).look();
      clearInterval(timer);
      assert.ok(turns > 0);
    }));

  test('a look into a destroyed root is refused', () =>
    withRoot({ file: content }, async (root) => {
      const tracker = new CopyUpTracker(root);
      await root.destroy();
      await assert.rejects(tracker.look(), /Cannot look into root "a": it is destroyed/);
    }));
});

async function withRoot(
  files: Record<string, Buffer>,
  body: (root: WritableRoot) => Promise<void>,
  prepare: (layer: string) => void = () => undefined,
): Promise<void> {
  await withLayers(async (layers) => {
    const layer = layers.make(files);
    prepare(layer);
    const mountPoints = layers.path('state');
    const driver = OverlayDriver.open(new MemoryScratch({ sizeBytes: 64 << 20, mountPoints }));
    try {
      await body(
        driver.createRoot({ id: 'a', lowerDirectories: [layer], ownerUid: 0, ownerGid: 0 }),
      );
    } finally {
      await driver.close();
    }
  });
}

function at(root: WritableRoot, path = ''): string {
  return `/proc/self/fd/${root.mountFd}/${path}`;
}

function sizes(copyUps: CopyUp[]): [string, number][] {
  return copyUps.map(({ path, bytesCopied }) => [path, bytesCopied]);
}

function sorted(copyUps: CopyUp[]): CopyUp[] {
  return copyUps.toSorted((a, b) => a.path.localeCompare(b.path));
}
