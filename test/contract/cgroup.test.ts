/** The cgroup contract on this machine's groups, whatever their layout is. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import process from 'node:process';
import { test } from 'node:test';
import { detectCgroupLayout, openCgroupDriver } from '../../host/cgroup/cgroup.ts';
import { controlFiles } from '../../host/cgroup/control-files.ts';
import { diskOf } from '../../host/cgroup/disk.ts';
import { ManagedDriver } from '../../host/cgroup/driver.ts';
import { openV2Layout } from '../../host/cgroup/v2.ts';
import { cgroupDriverSuite, cgroupLifecycleSuite } from './cgroup.ts';

const layout = detectCgroupLayout();
const parent = `hatchery-test-${process.pid}`;
const unified = '/sys/fs/cgroup/unified';

const disk = diskOf(tmpdir());

cgroupDriverSuite(layout, { open: () => openCgroupDriver({ parent, disk }), parent });

// The v2 code meets a real kernel here too, as far as a tree without controllers goes.
if (layout === 'hybrid')
  cgroupLifecycleSuite('v2 without controllers', () => {
    const options = { root: unified, files: controlFiles, controllers: [] };
    return new ManagedDriver(
      'v2',
      controlFiles,
      (name) => openV2Layout({ ...options, parent: name }),
      parent,
    );
  });

test('close removes the parent, and everything left below it', async () => {
  const driver = openCgroupDriver({ parent: `${parent}-close` });
  driver.create('left', { memoryBytes: 2 ** 26, pidsMax: 10 });
  await driver.close();
  assert.throws(() => driver.create('more', { memoryBytes: 2 ** 26, pidsMax: 10 }), /closed/);
  for (const root of ['', '/memory', '/pids', '/cpu', '/cpuacct', '/freezer'])
    assert.equal(existsSync(`/sys/fs/cgroup${root}/${parent}-close`), false);
});
