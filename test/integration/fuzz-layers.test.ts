/** Layers that nobody thought of: they are unpacked or refused, and nothing else happens. */
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { HatchError } from '../../host/base/errors.ts';
import { UnpackBench, tarOf } from '../support/unpack-bench.ts';
import type { Entry } from '../support/unpack-bench.ts';

const runs = { numRuns: 150, interruptAfterTimeLimit: 4000 };

let bench: UnpackBench;
before(async () => {
  bench = await UnpackBench.create();
});
// Checks that nothing outside of the layers has changed.
after(() => bench.remove());

const word = fc.oneof(
  fc.constantFrom('a', 'b', 'outside', 'secret', '.', '..', '', '\u00e9'),
  fc.constantFrom('.wh.a', '.wh..wh..opq', '.wh.', '.wh..', 'x'.repeat(101), 'x'.repeat(256)),
);
const path = fc.array(word, { minLength: 1, maxLength: 5 }).map((words) => words.join('/'));
const types = ['file', 'directory', 'symlink', 'link', 'fifo', 'character-device'] as const;
const entry = fc
  .record({
    name: path,
    linkname: path,
    type: fc.constantFrom(...types),
    mode: fc.nat(0o7777),
    uid: fc.nat(70_000),
    content: fc.string({ maxLength: 20 }),
  })
  .map(({ content, ...header }): [Entry, string] => [
    header,
    header.type === 'file' ? content : '',
  ]);
const entries = fc.array(entry, { minLength: 1, maxLength: 12 });

async function unpacksOrRefuses(tar: Buffer): Promise<void> {
  const into = await mkdtemp(join(bench.directory, 'run-'));
  try {
    await bench.applyTar(tar, { into, limits: { unpackedBytesMax: 100_000, entriesMax: 100 } });
  } catch (error) {
    if (!(error instanceof HatchError) || error.code !== 'image.invalid') throw error;
  }
}

test('any names, links and whiteouts', () =>
  fc.assert(
    fc.asyncProperty(entries, async (some) => unpacksOrRefuses(await tarOf(some))),
    runs,
  ));

test('any bytes of a tar changed', () => {
  const changes = fc.array(fc.tuple(fc.nat(20_000), fc.nat(255)), { minLength: 1, maxLength: 10 });
  return fc.assert(
    fc.asyncProperty(entries, changes, async (some, changed) => {
      const tar = await tarOf(some);
      for (const [at, byte] of changed) tar[at % tar.length] = byte;
      await unpacksOrRefuses(tar);
    }),
    runs,
  );
});
