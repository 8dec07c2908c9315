/** Instances that stand still between calls: nothing runs, the next call finds all as it was. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { before, suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostForFile } from '../support/file-host.ts';
import { startHost, type TestHost } from '../support/host.ts';
import { descendantsOf, isRunning, waitFor } from '../support/host-processes.ts';
import { nameHost } from '../support/named-host.ts';

const freezing = { freezeIdleAfterMs: 0 };
const host = hostForFile({ config: freezing });

/** Its timer and its child, which never rest, and how long the timer stood still at most. */
const source = `
import { spawn } from 'node:child_process';
let ticks = 0;
let longestGapMs = 0;
let lastMs = performance.now();
setInterval(() => {
  ticks++;
  longestGapMs = Math.max(longestGapMs, performance.now() - lastMs);
  lastMs = performance.now();
}, 5);
let child: ReturnType<typeof spawn> | undefined;
export const handler = async (event: any) => {
  if (event?.spin) child ??= spawn('/bin/sh', ['-c', 'while :; do :; done'], { stdio: 'ignore' });
  await new Promise((resolve) => setTimeout(resolve, 20));
  return { ticks, longestGapMs, pid: process.pid };
};`;

interface Answer {
  ticks: number;
  longestGapMs: number;
  pid: number;
}

const frozen = (on: TestHost, name: string): Promise<void> =>
  waitFor(`"${name}" is frozen`, async () => {
    const { instances } = await on.status();
    const own = instances.filter(({ functionName }) => functionName === name);
    return own.length > 0 && own.every(({ state }) => state === 'frozen');
  });

/** User and system time of all processes of the containers, in ticks of the kernel. */
function cpuTicks(on: TestHost): number {
  const pids = descendantsOf(on.pid).map(({ pid }) => pid);
  const ofContainers = pids.filter((pid) => cgroupsOf(pid).includes(`/${on.cgroupParent}/`));
  assert.ok(ofContainers.length >= 3, 'PID 1, the function and its child');
  return ofContainers.reduce((sum, pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
    return sum + Number(fields[11]) + Number(fields[12]);
  }, 0);
}

const cgroupsOf = (pid: number): string => readFileSync(`/proc/${pid}/cgroup`, 'utf8');

suite('frozen idle instances', () => {
  before(async () => {
    await host().deploy({ manifest: { name: 'f', cpu: 0.5 }, 'handler.ts': source });
  });

  test('nothing in a frozen instance runs, and the next call finds it as it was', async () => {
    const first = (await host().call('f', { spin: true })).json<Answer>();
    await frozen(host(), 'f');
    await sleep(50);
    const ticks = cpuTicks(host());
    await sleep(700);
    assert.equal(cpuTicks(host()), ticks, 'it uses no CPU');
    const reply = await host().call('f', {});
    const second = reply.json<Answer>();
    assert.equal(reply.start, 'hot');
    assert.equal(second.pid, first.pid);
    assert.ok(second.longestGapMs >= 700, `its timer stood still ${second.longestGapMs} ms`);
    assert.ok(second.ticks > first.ticks, 'and goes on');
    await frozen(host(), 'f');
  });

  test('a function that says never is not frozen', async () => {
    const manifest = { name: 'awake', freezeIdleAfterMs: 'never' };
    await host().deploy({ manifest, 'handler.ts': source });
    await host().call('awake', {});
    await sleep(1500);
    const { longestGapMs } = (await host().call('awake', {})).json<Answer>();
    assert.ok(longestGapMs < 1000, `its timer stood still ${longestGapMs} ms`);
  });

  test('a frozen instance can be removed like any other', async () => {
    await host().call('f', {});
    await frozen(host(), 'f');
    const family = descendantsOf(host().pid).filter(({ command }) => /while :/.test(command));
    assert.equal(family.length, 1);
    await host().client.ask('rm', { name: 'f' });
    await waitFor('it is gone', async () => (await host().instancesOf('f')).length === 0);
    assert.ok(!isRunning(family[0]?.pid ?? 0));
  });
});

test('what a killed host left frozen, the next one removes', async () => {
  const named = await nameHost(freezing);
  const first = await startHost({ config: named.config });
  await first.deploy({ manifest: { name: 'f', cpu: 0.5 }, 'handler.ts': source });
  await first.call('f', { spin: true });
  await frozen(first, 'f');
  const processes = descendantsOf(first.pid).filter(({ pid }) =>
    cgroupsOf(pid).includes(`/${first.cgroupParent}/`),
  );
  await first.kill();
  const second = await startHost({ config: first.config });
  assert.deepEqual(
    processes.filter(({ pid }) => isRunning(pid)),
    [],
  );
  assert.equal((await second.call('f', {})).error, undefined);
  await frozen(second, 'f');
  await second.stop();
  await named.assertNothingLeft();
});
