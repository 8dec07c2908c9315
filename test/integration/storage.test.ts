/** Functions choose where their files are: what a host offers is what its state directory is on. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { startHost } from '../support/host.ts';
import { snapshotRootsSuite } from './snapshot-roots.ts';

snapshotRootsSuite('btrfs', (_disk, stateDirectory) =>
  ['stacks', 'roots'].flatMap((place) => readdirSync(join(stateDirectory, 'btrfs', place))),
);

test('a host refuses drivers whose file system it is not on, and says why', async () => {
  const host = await startHost();
  try {
    for (const storage of ['btrfs', 'zfs']) {
      const why = new RegExp(`Cannot offer storage "${storage}": .* ".*" is not on ${storage}`);
      await assert.rejects(host.deploy('functions/hello', { storage }), why);
    }
  } finally {
    await host.stop();
  }
});
