/** What every place for bundles promises (host/function/bundle-store.ts), as a suite for any. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BundleStore } from '../../host/function/bundle-store.ts';
import { digestOf } from '../../host/image/digest.ts';

/** `open` gives one that is empty at first, and may be given again. */
export function bundleSuite(name: string, open: () => BundleStore): void {
  const made = (sizeBytes: number) => {
    const bytes = randomBytes(sizeBytes);
    return { bytes, layer: { digest: digestOf(bytes), sizeBytes } };
  };
  const source = (bytes: Buffer) => () => Promise.resolve(Readable.from([bytes]));
  const nothing = { except: new Set<string>() };
  const now = () => ({ putUntilMs: Date.now() });

  describe(`bundle store: ${name}`, () => {
    test('an empty one has nothing, and says so', async () => {
      const bundles = open();
      const { digest } = made(10).layer;
      assert.deepEqual(await bundles.list(nothing), []);
      assert.equal(await bundles.has(digest), false);
      await assert.rejects(bundles.get(digest), { code: 'image.not_found' });
      assert.equal(await bundles.delete(digest, now()), false);
    });

    test('a layer comes back as it went, for others too', async () => {
      const bundles = open();
      const { bytes, layer } = made(3 * 2 ** 20 + 1);
      const before = Date.now();
      await bundles.put(layer, source(bytes));
      assert.ok(await open().has(layer.digest));
      assert.ok((await buffer(await open().get(layer.digest))).equals(bytes));
      const [listed, ...others] = await bundles.list(nothing);
      assert.deepEqual([listed?.digest, others], [layer.digest, []]);
      assert.ok((listed?.usedAtMs ?? 0) >= before && (listed?.usedAtMs ?? 0) <= Date.now());
      assert.deepEqual(await bundles.list({ except: new Set([layer.digest]) }), []);
      await bundles.delete(layer.digest, now());
    });

    test('what is put again is not read again, and is young again', async () => {
      const bundles = open();
      const { bytes, layer } = made(1000);
      await bundles.put(layer, source(bytes));
      const again = Date.now() + 20;
      await sleep(30);
      await bundles.put(layer, () => Promise.reject(new Error('read again')));
      const [listed, ...others] = await bundles.list(nothing);
      assert.deepEqual([listed?.digest, others], [layer.digest, []]);
      assert.ok((listed?.usedAtMs ?? 0) >= again);
      assert.ok((await buffer(await bundles.get(layer.digest))).equals(bytes));
      await bundles.delete(layer.digest, now());
    });

    test('what was put again since is not deleted', async () => {
      const bundles = open();
      const { bytes, layer } = made(1000);
      await bundles.put(layer, source(bytes));
      const listed = now();
      await sleep(5);
      await bundles.put(layer, source(bytes));
      assert.equal(await bundles.delete(layer.digest, listed), false);
      assert.ok((await buffer(await bundles.get(layer.digest))).equals(bytes));
      assert.ok(await bundles.delete(layer.digest, now()));
    });

    test('many at once, also of one layer', async () => {
      const bundles = open();
      const all = Array.from({ length: 20 }, () => made(10_000));
      await Promise.all(
        [...all, ...all, ...all].map(({ layer, bytes }) => bundles.put(layer, source(bytes))),
      );
      const digests = (await bundles.list(nothing)).map(({ digest }) => digest);
      assert.deepEqual(new Set(digests), new Set(all.map(({ layer }) => layer.digest)));
      for (const { layer, bytes } of all) {
        assert.ok((await buffer(await bundles.get(layer.digest))).equals(bytes));
        await bundles.delete(layer.digest, now());
      }
    });

    test('other bytes than the digest says are not stored', async () => {
      const bundles = open();
      const { layer } = made(1000);
      await assert.rejects(bundles.put(layer, source(randomBytes(1000))));
      assert.equal(await bundles.has(layer.digest), false);
    });

    test('a source that fails is told, and stores nothing', async () => {
      const bundles = open();
      const { layer } = made(1000);
      const failing = async function* (): AsyncGenerator<Buffer> {
        yield randomBytes(10);
        await Promise.resolve();
        throw new Error('the disk is gone');
      };
      await assert.rejects(bundles.put(layer, async () => Readable.from(failing())));
      await assert.rejects(bundles.put(layer, () => Promise.reject(new Error('no such file'))));
      assert.equal(await bundles.has(layer.digest), false);
    });

    test('what was deleted is gone, and can come again', async () => {
      const bundles = open();
      const { bytes, layer } = made(1000);
      for (let round = 0; round < 2; round++) {
        await bundles.put(layer, source(bytes));
        assert.ok(await bundles.delete(layer.digest, now()));
        assert.equal(await bundles.has(layer.digest), false);
        await assert.rejects(bundles.get(layer.digest), { code: 'image.not_found' });
        assert.deepEqual(await bundles.list(nothing), []);
      }
    });
  });
}
