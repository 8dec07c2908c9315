/** Roots on zfs, which the kernel of `npm run test:vm` has; elsewhere it is refused by name. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startHost } from '../support/host.ts';
import { hasZfs } from '../support/zfs.ts';
import { snapshotRootsSuite } from './snapshot-roots.ts';

if (hasZfs)
  // All but the driver's own, which its next run takes over.
  snapshotRootsSuite('zfs', (disk) => disk.datasets().filter((name) => name.includes('/')));
else
  test('a host does not start with a driver that it cannot offer', () =>
    assert.rejects(startHost({ config: { storage: 'zfs' } }), /Cannot offer storage "zfs"/));
