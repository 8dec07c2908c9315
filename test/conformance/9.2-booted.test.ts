/** Where forking is off, or does not work, instances are executed: `booted`. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { View } from '../functions/probe/handler.ts';
import { namespacesOf, oomScoreOf, startProbe, uidBaseOf } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import { assertPath, fresh, kept } from './start-paths.ts';

const getHost = hostForFile({ config: { parked: 0, fork: 'never' } });

test('9.2 on a host that may not fork, a new instance is booted', async () => {
  const host = getHost();
  const { startRecord } = await host.deploy(fresh);
  assert.equal(startRecord.path, 'booted');
  // The instance that the deploy made ready serves the first call.
  await assertPath(host, await host.call('fresh'), 'hot');
  const replies = await Promise.all(Array.from({ length: 3 }, () => host.call('fresh')));
  for (const reply of replies) {
    assert.equal(reply.json<{ calls: number }>().calls, 1);
    await assertPath(host, reply, 'booted');
  }
});

test('9.2 a booted instance serves later calls hot', async () => {
  const host = getHost();
  await host.deploy(kept);
  for (const calls of [1, 2]) {
    const reply = await host.call('kept');
    assert.equal(reply.json<{ calls: number }>().calls, calls);
    await assertPath(host, reply, 'hot');
  }
});

test('9.2 a booted instance has the walls of a forked one', async () => {
  const host = getHost();
  const probe = await startProbe(host, 'walls');
  const view = await probe.ask<View>({ do: 'view' });
  assert.deepEqual([probe.initPid, probe.functionPid].map(oomScoreOf), [300, 600]);
  // Node.js starts threads of its own first: their ids come before the function's.
  assert.deepEqual([view.pids, view.uid], [[1, view.pid], 1000]);
  assert.deepEqual([view.interfaces, view.hostname], [['lo'], probe.instanceId]);
  // What covers parts of /proc is a mount as well.
  const points = view.mounts.map(({ point }) => point).filter((at) => !at.startsWith('/proc/'));
  assert.deepEqual(points.toSorted(), ['/', '/dev', '/dev/shm', '/proc', '/tmp']);
  assert.ok(uidBaseOf(probe.functionPid) >= 65_536);
  const inside = namespacesOf(probe.functionPid);
  assert.deepEqual(namespacesOf(probe.initPid), inside);
  for (const outside of [namespacesOf('self'), namespacesOf(host.pid)])
    for (const [kind, namespace] of Object.entries(inside))
      assert.notEqual(namespace, outside[kind], kind);
  for (const pid of [probe.initPid, probe.functionPid]) {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'])
      assert.ok(status.includes(`${set}:\t0000000000000000\n`), set);
    assert.match(status, /^NoNewPrivs:\t1$/m);
    assert.match(status, /^Seccomp:\t2$/m);
    await assertHarmlessDescriptors(pid);
  }
});

/**
 * No directory, namespace or group; the pidfd is of its own function. A Node.js that boots reads
 * the certificates of its image in a thread of its own, and PID 1 may leave its event loop for good
 * before that is done.
 */
const harmless = new RegExp(
  [
    String.raw`^(pipe|socket):\[\d+\]$`,
    String.raw`^anon_inode:\[(eventpoll|eventfd|signalfd|pidfd|io_uring)\]$`,
    String.raw`/null$`,
    String.raw`^/etc/ssl/certs/ca-certificates\.crt$`,
  ].join('|'),
);

async function assertHarmlessDescriptors(pid: number): Promise<void> {
  const links = () =>
    readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  const deadline = performance.now() + 5000;
  for (;;) {
    const harmful = attempt(links).filter((link) => !harmless.test(link));
    if (harmful.length === 0) return;
    assert.ok(performance.now() < deadline, harmful.join(' '));
    await sleep(20);
  }
}

/** A descriptor may be closed between the list and the look. */
function attempt(look: () => string[]): string[] {
  try {
    return look();
  } catch (error) {
    return [String(error)];
  }
}
