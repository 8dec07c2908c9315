/** When memory is short outside of an instance: who goes first, and what the caller is told. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RunResult } from '../functions/probe/handler.ts';
import { detectCgroupLayout } from '../../host/cgroup/cgroup.ts';
import { cgroupOf, isAlive, memoryInUse, oomScoreOf, startProbe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import type { TestHost } from '../support/host.ts';

const getHost = hostForFile();
const MiB = 2 ** 20;

test('4.4 functions are the first to go, PID 1 is next, host and zygote are the last', async () => {
  const host = getHost();
  const probe = await startProbe(host, 'ordered');
  const { initPid, functionPid } = probe;
  const zygotePid = Number(statusOf(initPid, 'PPid'));
  assert.deepEqual([functionPid, initPid].map(oomScoreOf), [600, 300]);
  // Protection needs a capability that this machine may keep back; its lack is reported.
  const { checks } = await host.client.askAny('doctor', {}).then(({ reply }) => reply);
  const check = checks.find(({ name }) => name === 'out of memory');
  const protectedScore = mayLowerScores() ? -900 : oomScoreOf('self');
  assert.deepEqual([host.pid, zygotePid].map(oomScoreOf), [protectedScore, protectedScore]);
  // Nor can a function get itself behind others, where its score was given by who may.
  const script = 'echo 0 >/proc/self/oom_score_adj; cat /proc/$$/oom_score_adj';
  const tried = await probe.ask<RunResult>({ do: 'run', command: ['sh', '-c', script] });
  if (mayLowerScores()) assert.equal(tried.stdout, '600\n', tried.stderr);
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

// Any other machine is not only ours.
const skip = process.env['HATCH_TEST_VM'] === undefined ? 'takes all memory: VM only' : false;

test('4.4 of a machine without memory, the function that took it goes', { skip }, async () => {
  const host = getHost();
  const totalMb = Math.floor(totalmem() / MiB);
  // Less than there is, but not less than the test leaves.
  const memoryMb = Math.floor(0.7 * totalMb);
  const timeoutMs = 600_000;
  const sibling = await startProbe(host, 'modest', { memoryMb: 64, timeoutMs });
  const greedy = await startProbe(host, 'boundless', { memoryMb, timeoutMs });
  // With a call under way: the host may give idle ones back when memory is short.
  const working = sibling.ask<RunResult>({ do: 'run', command: ['sleep', '60'] }, { timeoutMs });
  const others = Buffer.alloc((totalMb - memoryMb) * MiB, 1);
  const request = { do: 'hold', mebibytes: memoryMb - 64 };
  const reply = await host.call('boundless', request, { timeoutMs });
  assert.equal(reply.error?.code, 'function.oom', reply.error?.message);
  assert.equal(reply.error.details['scope'], 'system');
  assert.ok(isAlive(sibling.functionPid), 'the sibling went too');
  assert.equal((await working).status, 0);
  // So much memory is not given back in a moment.
  for (let tries = 0; isAlive(greedy.functionPid); tries++) {
    assert.ok(tries < 100, 'the function was not killed');
    await sleep(100);
  }
  assert.ok(others.length > 0);
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
