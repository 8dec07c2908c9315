/** When memory is short outside of an instance: who goes first, and what the caller is told. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { detectCgroupLayout } from '../../host/cgroup/cgroup.ts';
import { cgroupOf, isAlive, memoryInUse, oomScoreOf, startProbe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import type { TestHost } from '../support/host.ts';

const getHost = hostForFile();
const MiB = 2 ** 20;

test('4.4 functions are the first to go, PID 1 is next, host and zygote are the last', async () => {
  const host = getHost();
  const { initPid, functionPid } = await startProbe(host, 'ordered');
  const zygotePid = Number(statusOf(initPid, 'PPid'));
  assert.deepEqual([functionPid, initPid].map(oomScoreOf), [600, 300]);
  // Protection needs a capability that this machine may keep back; its lack is reported.
  const { checks } = await host.client.askAny('doctor', {}).then(({ reply }) => reply);
  const check = checks.find(({ name }) => name === 'out of memory');
  const protectedScore = mayLowerScores() ? -900 : oomScoreOf('self');
  assert.deepEqual([host.pid, zygotePid].map(oomScoreOf), [protectedScore, protectedScore]);
  assert.equal(check?.status, protectedScore === -900 ? 'ok' : 'warn');
});

test('4.4 a shortage above the instance is told from its own limit', async () => {
  const host = getHost();
  const memoryMb = 512;
  const sibling = await startProbe(host, 'frugal', { memoryMb });
  const greedy = await startProbe(host, 'greedy', { memoryMb });
  // The group above all instances runs out, as the machine would.
  using _shortage = leaveMemory(host, 150 * MiB);
  const reply = await host.call('greedy', { do: 'hold', mebibytes: 300 });
  assert.equal(reply.error?.code, 'function.oom', reply.error?.message);
  const { scope, limitBytes, peakBytes } = reply.error.details;
  assert.deepEqual({ scope, limitBytes }, { scope: 'system', limitBytes: memoryMb * MiB });
  assert.ok(typeof peakBytes === 'number' && peakBytes < memoryMb * MiB);
  assert.match(reply.error.message, /the host ran out of memory/);

  assert.ok(host.alive && isAlive(sibling.functionPid) && !isAlive(greedy.functionPid));
  assert.equal(await sibling.ask({ do: 'count' }), 1);
});

function mayLowerScores(): boolean {
  // CAP_SYS_RESOURCE of <linux/capability.h>
  return ((BigInt(`0x${statusOf('self', 'CapEff')}`) >> 24n) & 1n) === 1n;
}

function statusOf(pid: number | 'self', field: string): string {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  return new RegExp(`^${field}:\\t(.*)$`, 'm').exec(status)?.[1] ?? '';
}

/** Beyond what is in use. */
function leaveMemory(host: TestHost, bytes: number): Disposable {
  const isV2 = detectCgroupLayout() === 'v2';
  const [name, none] = isV2 ? ['memory.max', 'max'] : ['memory.limit_in_bytes', '-1'];
  const limit = join(cgroupOf(host, '', 'memory'), name);
  writeFileSync(limit, String(memoryInUse(host, '') + bytes));
  return { [Symbol.dispose]: () => writeFileSync(limit, none) };
}
