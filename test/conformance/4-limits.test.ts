/** An instance's limits hold, and reaching one is nobody else's trouble. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RunResult, View } from '../functions/probe/handler.ts';
import { cgroupOf, cpuUsageUs, isAlive, startProbe, type Probe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import { slowness } from '../support/slowness.ts';

const getHost = hostForFile();
const MiB = 2 ** 20;
const measuredMs = 3000;

for (const [name, work] of Object.entries({
  'one thread': (probe: Probe) => probe.ask({ do: 'spin', forMs: measuredMs + 1000 }),
  'four processes': (probe: Probe) =>
    probe.ask<RunResult>({
      do: 'run',
      command: ['sh', '-c', 'for i in 1 2 3 4; do /function/probe spin 5 & done; wait'],
    }),
}))
  test(`4.2 half a core is half a core with ${name}`, async () => {
    const host = getHost();
    const probe = await startProbe(host, name.replace(' ', '-'), { cpu: 0.5 });
    const working = work(probe);
    await sleep(500);
    const beforeUs = cpuUsageUs(host, probe.instanceId);
    const before = performance.now();
    await sleep(measuredMs);
    const coresUsed =
      (cpuUsageUs(host, probe.instanceId) - beforeUs) / 1000 / (performance.now() - before);
    await working;
    assert.ok(Math.abs(coresUsed - 0.5) <= 0.05, `${coresUsed.toFixed(3)} cores`);
  });

test('4.3 past its memory an instance ends by the kernel, its sibling does not', async () => {
  const host = getHost();
  const memoryMb = 256;
  const greedy = await startProbe(host, 'greedy', { memoryMb });
  const sibling = await startProbe(host, 'sibling', { memoryMb });
  await sibling.ask({ do: 'hold', mebibytes: 100 });
  assert.equal(await sibling.ask({ do: 'count' }), 1);

  // The function holds 200 MiB; a child of it asks past the limit. The kernel takes the larger one.
  assert.equal(await greedy.ask({ do: 'hold', mebibytes: 200 }), 1);
  const reply = await host.call('greedy', {
    do: 'run',
    command: ['/function/probe', 'take-memory', '150'],
  });
  assert.equal(reply.error?.code, 'function.oom', reply.error?.message);
  const { scope, limitBytes, peakBytes, signal } = reply.error.details;
  assert.deepEqual({ scope, limitBytes }, { scope: 'cgroup', limitBytes: memoryMb * MiB });
  assert.ok(typeof peakBytes === 'number', `${String(peakBytes)}`);
  assert.ok(peakBytes > 240 * MiB && peakBytes <= memoryMb * MiB, `${peakBytes} bytes`);
  assert.equal(signal, 9);
  await waitFor(() => !isAlive(greedy.functionPid) && !isAlive(greedy.initPid));

  // The same processes, with what they held and counted.
  assert.equal(await sibling.ask({ do: 'count' }), 2);
  assert.deepEqual(await host.instancesOf('sibling'), [sibling.instanceId]);
  assert.ok(isAlive(sibling.functionPid) && host.alive);
  // And the next call of the function that died is served by a new instance.
  assert.equal(await greedy.ask({ do: 'count' }), 1);
  assert.notDeepEqual(await host.instancesOf('greedy'), [greedy.instanceId]);
});

test('4.3 a child past the limit dies alone when it is the larger process', async () => {
  const probe = await startProbe(getHost(), 'parent', { memoryMb: 128 });
  const child = await probe.ask<RunResult>({
    do: 'run',
    command: ['/function/probe', 'take-memory', '200'],
  });
  assert.deepEqual([child.signal, child.stdout], ['SIGKILL', '']);
  assert.equal(await probe.ask({ do: 'count' }), 1);
  assert.ok(isAlive(probe.functionPid));
});

test('4.5 a fork bomb is told EAGAIN while the host serves others', async () => {
  const host = getHost();
  const pidsMax = 32;
  const bomb = await startProbe(host, 'bomb', { pidsMax, cpu: 0.5 });
  const other = await startProbe(host, 'other');
  const bursting = bomb.ask<RunResult>({
    do: 'run',
    command: ['/function/probe', 'fork-bomb', '3'],
  });
  await sleep(300);
  const group = cgroupOf(host, bomb.instanceId, 'pids');
  const durationsMs: number[] = [];
  let pidsMost = 0;
  for (const end = performance.now() + 2000; performance.now() < end; await sleep(10)) {
    const before = performance.now();
    await other.ask({ do: 'count' });
    durationsMs.push(performance.now() - before);
    pidsMost = Math.max(pidsMost, Number(readFileSync(join(group, 'pids.current'), 'utf8')));
  }
  const { status, stdout } = await bursting;
  assert.equal(status, 0);
  const { forks, told } = JSON.parse(stdout) as { forks: number; told: string };
  assert.equal(told, 'EAGAIN');
  assert.ok(forks > 0 && forks < pidsMax, `${forks} forks of the first process`);
  assert.equal(pidsMost, pidsMax);
  const slowest = Math.max(...durationsMs);
  assert.ok(durationsMs.length > 20 && slowest < 500, `${durationsMs.length}, ${slowest} ms`);

  // PID 1 outlived it, and clears the rest away.
  await waitFor(async () => (await bomb.ask<View>({ do: 'view' })).pids.length === 2);
  assert.deepEqual(await host.instancesOf('bomb'), [bomb.instanceId]);
});

test('4.5 when its call times out, nothing of a fork bomb is left within a second', async () => {
  const host = getHost();
  const probe = await startProbe(host, 'lasting-bomb', { pidsMax: 64, timeoutMs: 1500 });
  const bomb = { do: 'run', command: ['/function/probe', 'fork-bomb', '60'] };
  const reply = await host.call('lasting-bomb', bomb);
  const endedMs = performance.now();
  assert.equal(reply.error?.code, 'function.timeout', reply.error?.message);
  const group = cgroupOf(host, probe.instanceId, 'pids');
  await waitFor(() => !existsSync(group));
  const leftForMs = performance.now() - endedMs;
  assert.ok(leftForMs < 1000 * slowness, `${leftForMs} ms`);
  assert.ok(host.alive);
});

for (const directory of ['/tmp', '/dev/shm'])
  test(`4.5 files without content fill ${directory}, not the memory`, async () => {
    const probe = await startProbe(getHost(), `files-in${directory.replaceAll('/', '-')}`);
    const script = `for (let i = 0; ; i++) fs.writeFileSync('${directory}/' + i, '')`;
    const command = ['/usr/local/bin/node', '-e', script];
    const { status, stderr } = await probe.ask<RunResult>({ do: 'run', command });
    assert.equal(status, 1);
    assert.match(stderr, /ENOSPC: no space left on device/);
    assert.ok(isAlive(probe.functionPid));
  });

async function waitFor(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 5000;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, `not within 5 s: ${condition.toString()}`);
    await sleep(20);
  }
}
