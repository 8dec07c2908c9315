/** What checks 55 to 63 have in common, and the longer ones of what they look at. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { detectCgroupLayout } from '../../host/cgroup/cgroup.ts';
import { diskOf } from '../../host/cgroup/disk.ts';
import { cgroupOf, cpuUsageUs, enter, isAlive, type Probe } from '../support/containers.ts';
import type { TestHost } from '../support/host.ts';
import { waitFor } from '../support/host-processes.ts';
import type { Subject } from './check.ts';

const containerRoot = ['--user', '--mount', '--pid', '--setuid', '0', '--setgid', '0'];
const frozenForMs = 500;

/** Takes so many of what a function may use up; a child holds them until the instance ends. */
export async function take(
  probe: Probe,
  kind: 'pipes' | 'sockets' | 'events' | 'inotify' | 'timers',
  count: number,
): Promise<{ taken: number; told: string }> {
  return JSON.parse(await probe.run('take', kind, String(count)));
}

/** Its group stays closed even where it is seen, to root of the container without a filter. */
export async function assertGroupClosed(
  subject: Pick<Subject, 'probe' | 'host' | 'program'>,
): Promise<void> {
  const { probe, host, program } = subject;
  const isV2 = detectCgroupLayout() === 'v2';
  const group = cgroupOf(host, probe.instanceId, 'memory');
  const { pid } = process;
  const parent = dirname(group);
  const enterMounts = ['--mount'];
  const bound = enter(pid, enterMounts, [
    program,
    'bind-into',
    String(probe.functionPid),
    parent,
    '/mnt',
  ]);
  assert.equal(bound.status, 0, bound.stderr);
  const own = join('/mnt', probe.instanceId);
  const limit = isV2 ? 'memory.max' : 'memory.limit_in_bytes';
  const attempts = [
    `echo 99999999999 >${own}/${limit}`,
    `echo $$ >/mnt/cgroup.procs`,
    `echo $$ >${own}/cgroup.procs`,
    `mkdir ${own}/more`,
    isV2 ? `echo 0 >${own}/cgroup.freeze` : `echo 1 >${own}/notify_on_release`,
    isV2 ? `echo +pids >${own}/cgroup.subtree_control` : `echo 0 >${own}/memory.swappiness`,
    `echo /bin/sh >/mnt/${isV2 ? 'cgroup.type' : 'release_agent'}`,
  ];
  try {
    for (const attempt of attempts) {
      const asRoot = enter(probe.functionPid, containerRoot, ['sh', '-c', attempt]);
      assert.notEqual(asRoot.status, 0, attempt);
      assert.match(asRoot.stderr, /ermission denied|not permitted|nonexistent|ead-only/, attempt);
      const inside = await probe.ask<{ status: number }>({
        do: 'run',
        command: ['sh', '-c', attempt],
      });
      assert.notEqual(inside.status, 0, attempt);
    }
    // Root of the host may, by the same path: what it writes is what is there.
    const same = `cat ${own}/${limit} >/tmp/limit && cat /tmp/limit >${own}/${limit}`;
    const asHost = enter(probe.functionPid, enterMounts, ['sh', '-c', same]);
    assert.equal(asHost.status, 0, asHost.stderr);
  } finally {
    enter(probe.functionPid, enterMounts, ['umount', '/mnt']);
  }
}

/** A frozen one uses no CPU, and ends with all that it left running when it is told to. */
export async function assertFrozenEnds({
  start,
  host,
}: Pick<Subject, 'start' | 'host'>): Promise<void> {
  const probe = await start({ freezeIdleAfterMs: 0 });
  const command = ['sh', '-c', '(setsid sh -c "while :; do :; done" &) >/dev/null 2>&1 </dev/null'];
  await probe.ask({ do: 'run', command });
  const group = cgroupOf(host, probe.instanceId, 'freezer');
  const isFrozen = (): boolean =>
    detectCgroupLayout() === 'v2'
      ? /^frozen 1$/m.test(readFileSync(join(group, 'cgroup.events'), 'utf8'))
      : readFileSync(join(group, 'freezer.state'), 'utf8').trim() === 'FROZEN';
  await waitFor('it is frozen', isFrozen);
  const file = join(cgroupOf(host, probe.instanceId, 'pids'), 'cgroup.procs');
  const pids = readFileSync(file, 'utf8').trim().split('\n').map(Number);
  assert.ok(pids.length >= 3, pids.join(' '));
  const usedUs = cpuUsageUs(host, probe.instanceId);
  await sleep(frozenForMs);
  assert.equal(cpuUsageUs(host, probe.instanceId), usedUs);
  assert.ok(isFrozen());
  await host.client.ask('rm', { name: probe.name });
  await waitFor('all of it has ended', () => !pids.some(isAlive));
}

/** Code of the function's that runs before any call is under its limits already. */
export async function assertLimitedFromTheFirst(host: TestHost): Promise<void> {
  const source = `
    import { spawnSync } from 'node:child_process';
    import { readFileSync } from 'node:fs';
    const groups = readFileSync('/proc/self/cgroup', 'utf8');
    const held = [];
    for (let at = 0; at < (process.env.MEBIBYTES ?? 0); at++) held.push(Buffer.alloc(2 ** 20, 1));
    const sleeping = 'i=0; while [ $i -lt 64 ]; do sleep 1 & i=$((i+1)); done';
    const bomb = spawnSync('sh', ['-c', sleeping], { encoding: 'utf8' });
    export const handler = () => ({ groups, told: bomb.stderr });`;
  const limits = { memoryMb: 96, pidsMax: 48 };
  const first = { manifest: { name: 'first', ...limits }, 'handler.ts': source };
  const { startRecord } = await host.deploy(first);
  const { groups, told } = (await host.call('first')).json<{ groups: string; told: string }>();
  assert.match(told, /fork/);
  for (const controller of ['memory', 'pids', 'cpu'])
    if (detectCgroupLayout() === 'v2') assert.match(groups, /^0::\/$/m);
    else assert.match(groups, new RegExp(`^\\d+:([^:]*,)?${controller}(,[^:]*)?:/$`, 'm'));
  // What was parked has been in its group since then.
  const names = startRecord.steps.map(({ name }) => name);
  if (startRecord.path === 'forked') assert.ok(names.indexOf('cgroup') < names.indexOf('load'));
  const hungry = { ...first.manifest, name: 'hungry', env: { MEBIBYTES: '256' } };
  await assert.rejects(host.deploy({ ...first, manifest: hungry }), {
    code: 'deploy.failed',
    message: /memory/,
  });
}

/**
 * What a function may do to the disk is in the files of its group, or refused by name. Its writable
 * places are memory; that the kernel heeds the files is in test/contract/cgroup.ts.
 */
export async function assertDiskLimits({
  start,
  host,
}: Pick<Subject, 'start' | 'host'>): Promise<void> {
  const io = { readBytesPerSecond: 1_048_576, writeBytesPerSecond: 2_097_152 };
  const disk = diskOf(host.stateDirectory);
  if (disk === undefined) {
    await assert.rejects(start({ io }), { code: 'deploy.invalid', message: /io: needs/ });
    return;
  }
  const group = cgroupOf(host, (await start({ io })).instanceId, 'blkio');
  const read = (file: string): string => readFileSync(join(group, file), 'utf8').trim();
  if (detectCgroupLayout() === 'v2') {
    assert.match(read('io.max'), new RegExp(`^${disk} rbps=1048576 wbps=2097152 `));
  } else {
    assert.equal(read('blkio.throttle.read_bps_device'), `${disk} 1048576`);
    assert.equal(read('blkio.throttle.write_bps_device'), `${disk} 2097152`);
  }
}
