import assert from 'node:assert/strict';
import { mkdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { detectCgroupLayout, openCgroupDriver } from '../../../host/cgroup/cgroup.ts';
import { type FakeKernel, fakeKernel } from './fake-kernel.ts';

const limits = { memoryBytes: 64 * 2 ** 20, cpuCores: 0.5, cpuWeight: 59, pidsMax: 32 };
const controllers = ['cpu', 'cpuacct', 'memory', 'pids', 'freezer'];

const filesOfController: Record<string, Record<string, string>> = {
  cpu: {
    'cpu.shares': '1024\n',
    'cpu.cfs_quota_us': '-1\n',
    'cpu.cfs_burst_us': '0\n',
    'cpu.cfs_period_us': '100000\n',
  },
  cpuacct: { 'cpuacct.usage': '1234567\n' },
  memory: {
    'memory.limit_in_bytes': '9223372036854771712\n',
    'memory.memsw.limit_in_bytes': '9223372036854771712\n',
    'memory.usage_in_bytes': '4096\n',
    'memory.max_usage_in_bytes': '8192\n',
    'memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 2\n',
    'memory.memsw.max_usage_in_bytes': '8192\n',
    'memory.swappiness': '60\n',
  },
  pids: { 'pids.max': 'max\n', 'pids.current': '3\n' },
  freezer: { 'freezer.state': 'THAWED\n' },
};

function v1Files(group: string): Record<string, string> {
  const controller = group.split('/')[0] ?? '';
  return { tasks: '', 'cgroup.procs': '', ...filesOfController[controller] };
}

describe('cgroup v1', () => {
  let kernel: FakeKernel;
  beforeEach(() => (kernel = fakeKernel(controllers, v1Files)));
  afterEach(() => kernel.dispose());
  const open = () => openCgroupDriver({ root: kernel.root, parent: 'hatchery-x', files: kernel });

  test('is told from hybrid, and from no control groups at all', () => {
    assert.equal(detectCgroupLayout(kernel.root), 'v1');
    mkdirSync(join(kernel.root, 'unified'));
    kernel.set('unified/cgroup.controllers', '');
    assert.equal(detectCgroupLayout(kernel.root), 'hybrid');
    assert.throws(() => detectCgroupLayout(join(kernel.root, 'unified/none')), /mount them on/);
  });

  test('a missing controller is named', () => {
    rmSync(join(kernel.root, 'pids'), { recursive: true });
    assert.throws(open, /mount the controllers pids on/);
  });

  test('a new group has all its limits, memory before memory and swap', async () => {
    const group = open().create('a', limits);
    assert.deepEqual(kernel.writes, [
      'memory/hatchery-x/a/memory.limit_in_bytes=67108864',
      'memory/hatchery-x/a/memory.memsw.limit_in_bytes=67108864',
      'pids/hatchery-x/a/pids.max=32',
      'cpu/hatchery-x/a/cpu.cfs_quota_us=50000',
      'cpu/hatchery-x/a/cpu.shares=604',
    ]);
    assert.equal(group.joinFds.length, 5);
    await group.remove();
  });

  test('memory and swap grows first and shrinks last', async () => {
    const group = open().create('a', limits);
    kernel.writes.length = 0;
    group.setLimits({ ...limits, memoryBytes: 2 ** 27 });
    group.setLimits({ ...limits, memoryBytes: 2 ** 25 });
    const files = kernel.writes.map((write) => /memory\.(.*)_in_bytes/.exec(write)?.[1]);
    assert.deepEqual(files, ['memsw.limit', 'limit', 'limit', 'memsw.limit']);
    await group.remove();
  });

  test('a refused memory limit is explained, and the old one stays known', async () => {
    const group = open().create('a', limits);
    kernel.failAt('memory.limit_in_bytes', 'EBUSY');
    const smaller = { ...limits, memoryBytes: 2 ** 25 };
    assert.throws(() => group.setLimits(smaller), /more than 33554432 bytes of memory are in use/);
    kernel.writes.length = 0;
    group.setLimits(smaller);
    assert.equal(kernel.writes.length, 2);
    await group.remove();
  });

  test('without swap accounting the group is told not to swap', async () => {
    const files = filesOfController['memory'] ?? {};
    const { 'memory.memsw.limit_in_bytes': gone, ...rest } = files;
    assert.ok(gone);
    const other = fakeKernel(controllers, (group) =>
      group.startsWith('memory') ? { tasks: '', 'cgroup.procs': '', ...rest } : v1Files(group),
    );
    try {
      const options = { root: other.root, parent: 'hatchery-x', files: other };
      await openCgroupDriver(options).create('a', limits).remove();
      assert.ok(other.writes.includes('memory/hatchery-x/a/memory.swappiness=0'));
    } finally {
      other.dispose();
    }
  });

  test('controllers that share a hierarchy are joined once', async () => {
    renameSync(join(kernel.root, 'cpu'), join(kernel.root, 'cpu,cpuacct'));
    rmSync(join(kernel.root, 'cpuacct'), { recursive: true });
    for (const name of ['cpu', 'cpuacct']) symlinkSync('cpu,cpuacct', join(kernel.root, name));
    const { cpu, cpuacct } = filesOfController;
    filesOfController['cpu,cpuacct'] = { ...cpu, ...cpuacct };
    const group = open().create('a', limits);
    assert.equal(group.joinFds.length, 4);
    assert.equal(group.usage().cpuUsageUs, 1234);
    await group.remove();
  });

  test('usage and kills are read from their files', async () => {
    const group = open().create('a', limits);
    const expected = { memoryBytes: 4096, memoryPeakBytes: 8192, cpuUsageUs: 1234, pids: 3 };
    assert.deepEqual(group.usage(), expected);
    assert.deepEqual(group.oomKills(), { count: 2, scope: 'system' });
    const memsw = 'memory/hatchery-x/a/memory.memsw';
    kernel.set(`${memsw}.limit_in_bytes`, String(limits.memoryBytes));
    kernel.set(`${memsw}.max_usage_in_bytes`, String(limits.memoryBytes - 4096));
    assert.deepEqual(group.oomKills(), { count: 2, scope: 'cgroup' });
    await group.remove();
  });

  test('burst never exceeds the quota, neither on the way up nor down', async () => {
    const group = open().create('a', { ...limits, cpuCores: 2, cpuBurstCores: 1.5 });
    group.setLimits({ ...limits, cpuCores: 0.5, cpuBurstCores: 0.2 });
    group.setLimits({ ...limits, cpuCores: undefined });
    const written = kernel.writes.filter((write) => /cfs/.test(write));
    assert.deepEqual(
      written.map((write) => write.split('_').slice(1).join('_')),
      [
        'quota_us=200000',
        'burst_us=150000',
        'burst_us=20000',
        'quota_us=50000',
        'burst_us=0',
        'quota_us=-1',
      ],
    );
    await group.remove();
  });

  test('io is throttled on one disk, where the kernel has it and there is a disk', async () => {
    const io = { readBytesPerSecond: 1_000_000, writeOpsPerSecond: 10 };
    assert.throws(() => open().create('a', { ...limits, io }), /Cannot limit a cgroup: io/);
    mkdirSync(join(kernel.root, 'blkio'));
    kernel.set('blkio/blkio.throttle.read_bps_device', '');
    filesOfController['blkio'] = Object.fromEntries(
      ['read_bps', 'write_bps', 'read_iops', 'write_iops'].map((name) => [
        `blkio.throttle.${name}_device`,
        '',
      ]),
    );
    const options = { root: kernel.root, parent: 'hatchery-x', files: kernel };
    assert.equal(openCgroupDriver(options).optional.io, false);
    const group = openCgroupDriver({ ...options, disk: '8:0' }).create('b', { ...limits, io });
    group.setLimits({ ...limits, io: { writeOpsPerSecond: 10 } });
    assert.deepEqual(
      kernel.writes.filter((write) => write.startsWith('blkio')),
      ['read_bps_device=8:0 1000000', 'write_iops_device=8:0 10', 'read_bps_device=8:0 0'].map(
        (write) => `blkio/hatchery-x/b/blkio.throttle.${write}`,
      ),
    );
    assert.equal(group.joinFds.length, 6);
    await group.remove();
  });

  test('close leaves nothing of ours, and everything else', async () => {
    const driver = open();
    driver.create('a', limits);
    mkdirSync(join(kernel.root, 'memory/other'));
    await driver.close();
    assert.deepEqual(kernel.children(join(kernel.root, 'memory')), ['other']);
    assert.deepEqual(kernel.children(join(kernel.root, 'pids')), []);
  });

  test('parents that are paths are refused', () => {
    for (const parent of ['..', 'a/b', '', '/'])
      assert.throws(
        () => openCgroupDriver({ root: kernel.root, parent, files: kernel }),
        /Cannot name a cgroup/,
      );
  });
});
