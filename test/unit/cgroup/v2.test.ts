import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { detectCgroupLayout, openCgroupDriver } from '../../../host/cgroup/cgroup.ts';
import { type FakeKernel, fakeKernel } from './fake-kernel.ts';

const limits = { memoryBytes: 64 * 2 ** 20, cpuCores: 0.5, cpuWeight: 200, pidsMax: 32 };

function v2Files(group: string): Record<string, string> {
  const common = {
    'cgroup.controllers': 'cpuset cpu io memory hugetlb pids rdma misc\n',
    'cgroup.subtree_control': '',
    'cgroup.procs': '',
  };
  if (group === '') return common;
  return {
    ...common,
    'cgroup.events': 'populated 0\nfrozen 0\n',
    'cgroup.freeze': '0\n',
    'cgroup.kill': '',
    'cpu.max': 'max 100000\n',
    'cpu.max.burst': '0\n',
    'io.max': '',
    'cpu.weight': '100\n',
    'cpu.stat': 'usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n',
    'memory.current': '4096\n',
    'memory.high': 'max\n',
    'memory.max': 'max\n',
    'memory.peak': '8192\n',
    'memory.swap.max': 'max\n',
    'memory.events': 'low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n',
    'pids.current': '3\n',
    'pids.max': 'max\n',
  };
}

describe('cgroup v2', () => {
  let kernel: FakeKernel;
  beforeEach(() => (kernel = fakeKernel([''], v2Files)));
  afterEach(() => kernel.dispose());
  const open = () => openCgroupDriver({ root: kernel.root, parent: 'hatchery-x', files: kernel });

  test('is recognised by its controllers file', () => {
    assert.equal(detectCgroupLayout(kernel.root), 'v2');
  });

  test('controllers are switched on from the root down', () => {
    open();
    assert.deepEqual(kernel.writes, [
      'cgroup.subtree_control=+cpu +memory +pids',
      'hatchery-x/cgroup.subtree_control=+cpu +memory +pids',
    ]);
  });

  test('a missing controller is named', () => {
    kernel.set('cgroup.controllers', 'cpuset cpu io\n');
    assert.throws(open, /does not offer the controllers memory, pids/);
    assert.equal(existsSync(join(kernel.root, 'hatchery-x')), false);
  });

  test('a new group has all its limits, and no swap', async () => {
    const driver = open();
    kernel.writes.length = 0;
    const group = driver.create('a', limits);
    assert.deepEqual(kernel.writes, [
      'hatchery-x/a/memory.swap.max=0',
      'hatchery-x/a/memory.max=67108864',
      'hatchery-x/a/pids.max=32',
      'hatchery-x/a/cpu.max=50000 100000',
      'hatchery-x/a/cpu.weight=200',
    ]);
    assert.equal(group.joinFds.length, 1);
    assert.equal(await group.remove(), true);
    assert.equal(existsSync(join(kernel.root, 'hatchery-x/a')), false);
  });

  test('setLimits writes what changed, back to the defaults too', async () => {
    const group = open().create('a', limits);
    kernel.writes.length = 0;
    group.setLimits({ memoryBytes: limits.memoryBytes, pidsMax: 33 });
    assert.deepEqual(kernel.writes, [
      'hatchery-x/a/pids.max=33',
      'hatchery-x/a/cpu.max=max 100000',
      'hatchery-x/a/cpu.weight=100',
    ]);
    await group.remove();
  });

  test('a limit below the memory in use is not written, since v2 would kill', async () => {
    const group = open().create('a', limits);
    kernel.set('hatchery-x/a/memory.current', '60000000\n');
    assert.throws(() => group.setLimits({ ...limits, memoryBytes: 50_000_000 }), /are in use/);
    assert.equal(kernel.get('hatchery-x/a/memory.max').slice(0, 8), '67108864');
    await group.remove();
  });

  test('usage and kills are read from their fields', async () => {
    const group = open().create('a', limits);
    const expected = { memoryBytes: 4096, memoryPeakBytes: 8192, cpuUsageUs: 1234, pids: 3 };
    assert.deepEqual(group.usage(), expected);
    assert.deepEqual(group.oomKills(), { count: 2, scope: 'cgroup' });
    await group.remove();
    assert.deepEqual(group.oomKills(), { count: 2, scope: 'cgroup' });
  });

  test('a process killed while its group was below its limit died of the machine', async () => {
    const group = open().create('a', limits);
    kernel.set('hatchery-x/a/memory.events', 'max 7\noom 0\noom_kill 1\n');
    assert.deepEqual(group.oomKills(), { count: 1, scope: 'system' });
    await group.remove();
  });

  test('what not every kernel has is written where it is, and taken back', async () => {
    const options = { root: kernel.root, parent: 'hatchery-x', files: kernel, disk: '8:0' };
    const driver = openCgroupDriver(options);
    assert.deepEqual(driver.optional, {
      cpuBurst: true,
      memoryHigh: true,
      io: true,
      ioBuffered: true,
    });
    assert.equal(kernel.writes[0], 'cgroup.subtree_control=+cpu +memory +pids +io');
    const io = { readBytesPerSecond: 1_000_000, writeOpsPerSecond: 10 };
    const group = driver.create('a', limits);
    kernel.writes.length = 0;
    group.setLimits({ ...limits, memoryHighBytes: 2 ** 25, cpuBurstCores: 0.2, io });
    group.setLimits(limits);
    assert.deepEqual(kernel.writes, [
      'hatchery-x/a/memory.high=33554432',
      'hatchery-x/a/cpu.max.burst=20000',
      'hatchery-x/a/io.max=8:0 rbps=1000000 wbps=max riops=max wiops=10',
      'hatchery-x/a/memory.high=max',
      'hatchery-x/a/cpu.max.burst=0',
      'hatchery-x/a/io.max=8:0 rbps=max wbps=max riops=max wiops=max',
    ]);
    await group.remove();
  });

  test('a failed creation leaves neither group nor descriptor', () => {
    const driver = open();
    kernel.failAt('cpu.max', 'EINVAL');
    assert.throws(() => driver.create('a', limits), /Cannot create cgroup "a": EINVAL/);
    assert.equal(existsSync(join(kernel.root, 'hatchery-x/a')), false);
  });

  test('freeze waits for the event, and gives up by thawing', async () => {
    const group = open().create('a', limits);
    setTimeout(() => kernel.set('hatchery-x/a/cgroup.events', 'populated 1\nfrozen 1\n'), 10);
    await group.freeze();
    kernel.set('hatchery-x/a/cgroup.events', 'populated 1\nfrozen 0\n');
    await assert.rejects(group.freeze(), /Cannot freeze cgroup "a": a process did not stop/);
    assert.equal(kernel.writes.at(-1), 'hatchery-x/a/cgroup.freeze=0');
  });

  test('a group that is thawed before it was frozen keeps nobody waiting', async () => {
    const group = open().create('a', limits);
    const startedAt = performance.now();
    const freezing = group.freeze();
    group.thaw();
    await freezing;
    assert.ok(performance.now() - startedAt < 1000);
    assert.equal(kernel.writes.at(-1), 'hatchery-x/a/cgroup.freeze=0');
    await group.remove();
  });

  test('removal kills until the group is empty', async () => {
    const group = open().create('a', limits);
    kernel.occupy('hatchery-x/a', 4711);
    assert.deepEqual(group.pids(), [4711]);
    setTimeout(() => kernel.set('hatchery-x/a/cgroup.procs', ''), 10);
    assert.equal(await group.remove(), true);
    assert.ok(kernel.writes.includes('hatchery-x/a/cgroup.kill=1'));
  });
});
