/**
 * What every cgroup driver promises, on real groups and real processes. `cgroupLifecycleSuite`
 * needs no controller, so it also runs on the cgroup2 tree of a hybrid machine.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import {
  type Cgroup,
  type CgroupDriver,
  type CgroupLimits,
  defaultRoot,
} from '../../host/cgroup/cgroup.ts';
import { fieldOf } from '../../host/cgroup/control-files.ts';
import {
  cpuShareOf,
  cpuTicksOf,
  forkUntilError,
  hatchError,
  memoryHog,
  nextOutputOf,
  outputOf,
  runInside,
  signalOf,
  waitFor,
} from './cgroup-processes.ts';

const mib = 1024 * 1024;
const roomy: CgroupLimits = { memoryBytes: 256 * mib, pidsMax: 256 };

/** `open` is called several times with this parent, as by a host that starts again. */
export function cgroupDriverSuite(
  name: string,
  { open, parent }: { open: () => CgroupDriver; parent: string },
): void {
  cgroupLifecycleSuite(name, open);
  cgroupLimitsSuite(name, open, parent);
}

export function cgroupLifecycleSuite(name: string, open: () => CgroupDriver): void {
  describe(`${name}: life of a group`, () => {
    let driver: CgroupDriver;
    before(() => (driver = open()));
    after(() => driver.close());

    test('a process enters by itself, through the descriptors', async () => {
      const group = driver.create('enter', roomy);
      assert.deepEqual(group.pids(), []);
      const child = await runInside(group, 'exec sleep 60');
      assert.deepEqual(group.pids(), [child.pid]);
      group.kill();
      assert.equal(await signalOf(child), 'SIGKILL');
      assert.equal(await group.remove(), true);
    });

    test('kill ends everything, children that left their session too', async () => {
      const group = driver.create('kill', roomy);
      const child = await runInside(group, 'setsid sleep 60 & (sleep 60 & sleep 60) & wait');
      await waitFor(() => group.pids().length >= 4);
      group.kill();
      await signalOf(child);
      await waitFor(() => group.pids().length === 0);
      group.kill();
      await group.remove();
    });

    test('kill ends what has moved on to a new process whenever one looks', async () => {
      const group = driver.create('runaway', roomy);
      const script = `export NEXT='sh -c "$NEXT" &'; sh -c "$NEXT"; sh -c "$NEXT"; sleep 60`;
      const child = await runInside(group, script);
      const seen = new Set<number>();
      await waitFor(() => group.pids().every((pid) => seen.add(pid)) && seen.size > 20);
      group.kill();
      await signalOf(child);
      await waitFor(() => group.pids().length === 0);
      await delay(50);
      assert.deepEqual(group.pids(), []);
      await group.remove();
    });

    test('freeze stops the use of CPU, thaw resumes it', async () => {
      const group = driver.create('freeze', roomy);
      const child = await runInside(group, 'while :; do :; done');
      await group.freeze();
      await group.freeze();
      const frozenTicks = cpuTicksOf(child);
      await delay(150);
      assert.equal(cpuTicksOf(child), frozenTicks);
      group.thaw();
      group.thaw();
      await waitFor(() => cpuTicksOf(child) > frozenTicks + 2);
      group.kill();
      await signalOf(child);
      await group.remove();
    });

    test('a frozen group dies when it is killed', async () => {
      const group = driver.create('frozen', roomy);
      const child = await runInside(group, 'exec sleep 60');
      await group.freeze();
      group.kill();
      assert.equal(await signalOf(child), 'SIGKILL');
      await group.remove();
    });

    test('remove kills what is left; a second remove is false', async () => {
      const group = driver.create('remove', roomy);
      const child = await runInside(group, 'sleep 60 & sleep 60 & wait');
      const [first, second] = await Promise.all([group.remove(), group.remove()]);
      assert.deepEqual([first, second, await group.remove()], [true, false, false]);
      assert.equal(await signalOf(child), 'SIGKILL');
      assert.throws(() => group.pids(), /Cannot use cgroup "remove": it was removed/);
    });

    test('join descriptors close on exec and twice', async () => {
      const group = driver.create('descriptors', roomy);
      assert.ok(group.joinFds.length > 0);
      for (const fd of group.joinFds) {
        const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'));
        assert.ok(Number.parseInt(flags?.[1] ?? '0', 8) & 0o2000000);
      }
      group.closeJoinFds();
      group.closeJoinFds();
      assert.deepEqual(group.joinFds, []);
      await group.remove();
    });

    test('a name in use is refused, and free again after removal', async () => {
      const group = driver.create('name', roomy);
      assert.throws(() => driver.create('name', roomy), hatchError(/the name is in use/));
      await group.remove();
      await driver.create('name', roomy).remove();
    });

    test('names that are paths are refused', () => {
      for (const bad of ['', '.', '..', 'a/b', '../a', '/a', 'a\0b', 'cgroup.procs'])
        assert.throws(() => driver.create(bad, roomy), hatchError(/Cannot name a cgroup/));
    });

    test('a group of another run is refused while processes are in it', async () => {
      const earlier = open();
      const left = earlier.create('left', roomy);
      const child = await runInside(left, 'exec sleep 60');
      assert.throws(() => driver.create('left', roomy), hatchError(/Cannot create cgroup "left"/));
      assert.deepEqual(left.pids(), [child.pid], 'the refused creation changed nothing');
      await driver.removeAll();
      assert.equal(await signalOf(child), 'SIGKILL');
      left.closeJoinFds();
    });

    test('an empty group of another run is replaced', async () => {
      open().create('empty', roomy).closeJoinFds();
      const group = driver.create('empty', roomy);
      assert.deepEqual(group.pids(), []);
      await group.remove();
    });
  });
}

function cgroupLimitsSuite(name: string, open: () => CgroupDriver, parent: string): void {
  describe(`${name}: limits`, () => {
    let driver: CgroupDriver;
    before(() => (driver = open()));
    after(() => driver.close());
    const directoryOf = (group: Cgroup, controller: string): string =>
      join(defaultRoot, driver.layout === 'v2' ? '' : controller, parent, group.name);
    const fileOf = (group: Cgroup, controller: string, file: string): string =>
      readFileSync(join(directoryOf(group, controller), file), 'latin1');

    test('too much memory kills the worst process, in this group only', async () => {
      const group = driver.create('oom', { ...roomy, memoryBytes: 100 * mib });
      const sibling = driver.create('oom-sibling', roomy);
      const [bystander, small] = [
        await runInside(sibling, 'exec sleep 60'),
        await runInside(group, 'exec sleep 60'),
      ];
      const hog = await runInside(group, `exec "$NODE" -e '${memoryHog(300)}'`);
      assert.equal(await signalOf(hog), 'SIGKILL');
      assert.deepEqual(group.oomKills(), { count: 1, scope: 'cgroup' });
      assert.ok(group.usage().memoryPeakBytes <= 100 * mib);
      assert.ok(group.usage().memoryPeakBytes > 80 * mib);
      assert.equal(sibling.oomKills().count, 0);
      assert.deepEqual(group.pids(), [small.pid]);
      assert.deepEqual(sibling.pids(), [bystander.pid]);
      await group.remove();
      assert.equal(group.oomKills().count, 1, 'the counter outlives the group');
      await sibling.remove();
    });

    test('a shortage outside of the group is told from its own', async () => {
      const group = driver.create('starved', roomy);
      const small = await runInside(group, 'exec sleep 60');
      // What is above the group runs out, as the machine would.
      const file = driver.layout === 'v2' ? 'memory.max' : 'memory.limit_in_bytes';
      const above = join(directoryOf(group, 'memory'), '..', file);
      writeFileSync(above, String(100 * mib));
      const hog = await runInside(group, `exec "$NODE" -e '${memoryHog(200)}'`);
      assert.equal(await signalOf(hog), 'SIGKILL');
      assert.deepEqual(group.oomKills(), { count: 1, scope: 'system' });
      assert.deepEqual(group.pids(), [small.pid]);
      writeFileSync(above, driver.layout === 'v2' ? 'max' : '-1');
      await group.remove();
    });

    test('there is no swap to hide in', async () => {
      const group = driver.create('swap', roomy);
      const v1 = { file: 'memory.memsw.limit_in_bytes', value: String(roomy.memoryBytes) };
      const { file, value } = driver.layout === 'v2' ? { file: 'memory.swap.max', value: '0' } : v1;
      // Without accounting of swap the kernel has no such file.
      if (existsSync(join(directoryOf(group, 'memory'), file)))
        assert.equal(fileOf(group, 'memory', file).trim(), value);
      await group.remove();
    });

    test('past the soft limit a group is slowed, not killed', async (context) => {
      const soft = { ...roomy, memoryHighBytes: 64 * mib };
      if (!driver.optional.memoryHigh) {
        assert.throws(() => driver.create('high', soft), hatchError(/memoryHighBytes/));
        return context.diagnostic('refused: these control groups have no memory.high');
      }
      const group = driver.create('high', soft);
      const slowed = () => fieldOf(fileOf(group, 'memory', 'memory.events'), 'high') > 0;
      await runInside(group, `exec "$NODE" -e '${memoryHog(100)};setTimeout(_=>0,6e4)'`);
      await waitFor(slowed);
      assert.equal(group.oomKills().count, 0);
      assert.equal(group.pids().length, 1);
      await group.remove();
    });

    test('what was saved up of the quota can be spent in a burst', async (context) => {
      const bursting = { ...roomy, cpuCores: 0.2, cpuBurstCores: 0.2 };
      if (!driver.optional.cpuBurst) {
        assert.throws(() => driver.create('burst', bursting), hatchError(/cpuBurstCores/));
        return context.diagnostic('refused: this kernel has no CPU burst');
      }
      const group = driver.create('burst', bursting);
      // 30 ms of work at a time are more than the 20 of one period.
      const spin = 'setInterval(()=>{for(const t=Date.now();Date.now()-t<30;);},400)';
      await runInside(group, `exec "$NODE" -e '${spin}'`);
      await waitFor(() => fieldOf(fileOf(group, 'cpu', 'cpu.stat'), 'nr_bursts') > 0);
      group.setLimits({ ...bursting, cpuCores: 0.1, cpuBurstCores: 0.1 });
      group.setLimits(roomy);
      await group.remove();
    });

    test('a limit of what is written to the disk holds', async (context) => {
      const limited = { ...roomy, io: { writeBytesPerSecond: 4 * mib } };
      if (!driver.optional.io) {
        assert.throws(() => driver.create('io', limited), hatchError(/: io is not among/));
        return context.diagnostic(`refused: no controller, or no disk below "${tmpdir()}"`);
      }
      const group = driver.create('io', limited);
      const directory = mkdtempSync(join(tmpdir(), 'hatch-cgroup-io-'));
      const writeMs = async (how: string): Promise<number> => {
        const dd = `exec dd if=/dev/zero of=${directory}/file bs=1M count=4 ${how} status=none`;
        const startedMs = performance.now();
        assert.equal(await outputOf(await runInside(group, dd)), '');
        return performance.now() - startedMs;
      };
      const limitedMs = [await writeMs('oflag=direct'), await writeMs('conv=fsync')];
      assert.ok(
        limitedMs.every((ms) => ms > 800),
        `${limitedMs.join(' and ')} ms of 1000`,
      );
      group.setLimits(roomy);
      const unlimitedMs = [await writeMs('oflag=direct'), await writeMs('conv=fsync')];
      assert.ok(
        unlimitedMs.every((ms) => ms < 500),
        `${unlimitedMs.join(' and ')} ms`,
      );
      rmSync(directory, { recursive: true });
      await group.remove();
    });

    test('past pidsMax a fork fails with EAGAIN', async () => {
      const group = driver.create('pids', { ...roomy, pidsMax: 40 });
      const child = await runInside(group, `exec "$NODE" -e '${forkUntilError}'`);
      assert.match(await outputOf(child), /EAGAIN/);
      await group.remove();
    });

    test('the quota holds for one process and for several', async () => {
      const group = driver.create('quota', { ...roomy, cpuCores: 0.5 });
      await runInside(group, 'while :; do :; done');
      await runInside(group, 'while :; do :; done');
      const share = await cpuShareOf(group, 1000);
      assert.ok(share > 0.4 && share < 0.6, `used ${share} of a core`);
      await group.remove();
    });

    test('new limits are in force at once, up and down', async () => {
      const group = driver.create('change', { ...roomy, memoryBytes: 60 * mib, cpuCores: 0.2 });
      group.setLimits({ memoryBytes: 512 * mib, cpuWeight: 500, pidsMax: 256 });
      const hog = await runInside(group, `exec "$NODE" -e '${memoryHog(300)}'`);
      assert.match(await outputOf(hog), /done/);
      group.setLimits({ memoryBytes: 100 * mib, pidsMax: 256 });
      const second = await runInside(group, `exec "$NODE" -e '${memoryHog(300)}'`);
      assert.equal(await signalOf(second), 'SIGKILL');
      await group.remove();
    });

    test('a memory limit below what is in use is refused', async () => {
      const group = driver.create('shrink', roomy);
      const hog = await runInside(
        group,
        `exec "$NODE" -e '${memoryHog(120)};setTimeout(_=>0,6e4)'`,
      );
      await nextOutputOf(hog);
      assert.throws(
        () => group.setLimits({ ...roomy, memoryBytes: 32 * mib }),
        hatchError(/Cannot limit cgroup "shrink": more than 33554432 bytes of memory are in use/),
      );
      assert.equal(group.oomKills().count, 0);
      group.setLimits({ ...roomy, memoryBytes: 300 * mib });
      await group.remove();
    });

    test('usage counts memory, CPU time and tasks', async () => {
      const group = driver.create('usage', roomy);
      assert.deepEqual(group.usage().pids, 0);
      const child = await runInside(group, `exec "$NODE" -e '${memoryHog(50)};for(;;);'`);
      await nextOutputOf(child);
      await waitFor(() => group.usage().cpuUsageUs > 100_000);
      const usage = group.usage();
      assert.ok(usage.memoryBytes > 50 * mib && usage.memoryBytes <= usage.memoryPeakBytes);
      assert.ok(usage.pids >= 1 && usage.pids < 30);
      await group.remove();
    });

    test('impossible limits are refused before anything is made', () => {
      for (const bad of [
        { memoryBytes: 0 },
        { memoryBytes: Number.NaN },
        { pidsMax: 0 },
        { pidsMax: 1.5 },
        { cpuCores: 0 },
        { cpuCores: Number.NaN },
        { cpuWeight: 0 },
        { cpuWeight: 10_001 },
      ])
        assert.throws(() => driver.create('bad', { ...roomy, ...bad }), hatchError(/is/));
    });
  });
}
