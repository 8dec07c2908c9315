/**
 * A machine that is short of memory or of CPU, by the kernel's own account: what is idle goes
 * before anything is killed, what is made ahead slows down, and calls go on.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ProbeRequest, RunResult } from '../functions/probe/handler.ts';
import { fieldOf } from '../../host/cgroup/control-files.ts';
import { readPressure } from '../../host/cgroup/pressure.ts';
import { isAlive, startProbe, type Probe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import { descendantsOf, waitFor } from '../support/host-processes.ts';
import { slowness } from '../support/slowness.ts';

// Any other machine is not only ours.
const skip = process.env['HATCH_TEST_VM'] === undefined ? 'takes all memory: VM only' : false;
const parked = 4;
const getHost =
  skip === false ? hostForFile({ config: { parked, parkedPerSecondMax: 5 } }) : assert.fail;
const MiB = 2 ** 20;
const heldMib = 120;
const patience = { timeoutMs: 30_000 * slowness };
const kept = { timeoutMs: 900_000, keepAlive: { policy: 'fixed', minutes: 60 } };
const killsBefore = oomKills();
const ballast = skip === false ? mountBallast() : undefined;
after(() => ballast?.remove());

test(
  'who stalls in a limit of its own, beside memory to spare, costs no instance',
  { skip },
  async () => {
    const idle = await startIdle('spared');
    await using _stall = await startStalling();
    // As often as a host that were to react would have.
    await sleep(5000);
    assert.ok(readPressure().memorySome > 20, JSON.stringify(readPressure()));
    assert.deepEqual(
      idle.filter(({ functionPid }) => !isAlive(functionPid)),
      [],
    );
    assert.equal((await getHost().status()).parked, parked);
  },
);

test('while memory is tight and tasks wait for it, what is idle goes', { skip }, async () => {
  const host = getHost();
  const idle = await startIdle('tight');
  const working = await startWorking('working');
  {
    await using _stall = await startStalling();
    assert.deepEqual(
      idle.filter(({ functionPid }) => !isAlive(functionPid)),
      [],
    );
    leaveAvailable(0.18);
    await waitFor('idle instances are gone', () => !idle.some(isThere), patience);
    await waitFor(
      'so is what was parked',
      async () => (await host.status()).parked === 0,
      patience,
    );
    await sleep(3000);
    assert.equal((await host.status()).parked, 0, 'nothing is made ahead meanwhile');
    assert.ok(isThere(working.probe), 'a busy instance was taken');
    // A call gets its instance all the same.
    assert.equal((await host.call('tight-1', { do: 'count' })).json(), 1);
  }
  ballast?.resize(0);
  await waitFor(
    'as much is parked as before',
    async () => (await host.status()).parked === parked,
    patience,
  );
  await working.end();
  assert.equal(oomKills(), killsBefore);
});

test('memory that runs out is given back before the kernel kills for it', { skip }, async () => {
  const idle = await startIdle('idle');
  const working = await startWorking('laborious');
  const sizeBytes = leaveAvailable(0.12);
  // More than is left, by half of what is idle.
  const moreBytes = readPressure().availableBytes + (idle.length * heldMib * MiB) / 2;
  const stepBytes = 16 * MiB;
  for (let bytes = stepBytes; bytes < moreBytes; bytes += stepBytes) {
    ballast?.resize(sizeBytes + bytes);
    await sleep(1000);
  }
  assert.ok(!idle.every(isThere), 'idle instances are still there');
  assert.equal(oomKills(), killsBefore);
  assert.ok(isThere(working.probe), 'a busy instance was taken');
  ballast?.resize(0);
  await working.end();
  assert.equal((await getHost().call('idle-1', { do: 'count' })).json(), 1);
});

test('while the CPUs are saturated, refills slow down and calls are served', { skip }, async () => {
  const atEaseMs = await timeRefill('at-ease');
  using _load = saturate();
  await waitFor('the kernel tells of it', () => readPressure().cpuSome > 60, patience);
  const loadedMs = await timeRefill('loaded');
  // A tenth of 5 a second.
  assert.ok(loadedMs > (parked - 1) * 2000, `${loadedMs} ms under load`);
  assert.ok(atEaseMs < loadedMs / 2, `${atEaseMs} ms at ease, ${loadedMs} ms under load`);
});

/** Instances without a call that hold memory. */
async function startIdle(name: string): Promise<Probe[]> {
  const probes: Probe[] = [];
  for (const number of [1, 2, 3, 4]) {
    const probe = await startProbe(getHost(), `${name}-${number}`, { ...kept, memoryMb: 400 });
    await probe.ask({ do: 'hold', mebibytes: heldMib });
    probes.push(probe);
  }
  return probes;
}

/** One with a call that takes until it is told to end. */
async function startWorking(name: string): Promise<{ probe: Probe; end(): Promise<void> }> {
  const probe = await startProbe(getHost(), name, kept);
  const run: ProbeRequest = { do: 'run', command: ['sleep', '900'] };
  const result = probe.ask<RunResult>(run, { timeoutMs: kept.timeoutMs });
  result.catch(() => undefined);
  return {
    probe,
    async end() {
      for (const { pid } of descendantsOf(probe.functionPid)) process.kill(pid, 'SIGTERM');
      assert.equal((await result).signal, 'SIGTERM');
    },
  };
}

function isThere({ functionPid }: Probe): boolean {
  return isAlive(functionPid);
}

/** As `parked` calls of a function take all that is parked: until as much is parked again. */
async function timeRefill(name: string): Promise<number> {
  const host = getHost();
  const isFull = async (): Promise<boolean> => (await host.status()).parked === parked;
  await startProbe(host, name, { ...kept, instancesMax: parked + 1 });
  await waitFor('the stock is full', isFull, patience);
  const call = async (): Promise<void> => {
    const reply = await host.call(name, { do: 'run', command: ['sleep', '1'] });
    assert.equal(reply.json<RunResult>().status, 0);
  };
  const startMs = performance.now();
  await Promise.all(Array.from({ length: parked + 1 }, call));
  await waitFor('the stock is full again', isFull, patience);
  return performance.now() - startMs;
}

/** Processes of the machine that the kernel has killed for want of memory. */
function oomKills(): number {
  return fieldOf(readFileSync('/proc/vmstat', 'latin1'), 'oom_kill');
}

/** Memory that is in use, and that nothing can be done about without swap. */
function mountBallast(): { resize(bytes: number): void; remove(): void } {
  const directory = mkdtempSync(join(tmpdir(), 'hatch-ballast-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=100%', 'ballast', directory]);
  const file = join(directory, 'file');
  writeFileSync(file, '');
  return {
    resize(bytes) {
      if (bytes === 0) execFileSync('truncate', ['--size', '0', file]);
      else execFileSync('fallocate', ['--length', String(Math.round(bytes)), file]);
    },
    remove() {
      execFileSync('umount', [directory]);
      rmdirSync(directory);
    },
  };
}

/** Gives the ballast that leaves that share of the machine's memory, and what is given back. */
function leaveAvailable(share: number): number {
  const { memoryBytes, availableBytes } = readPressure();
  const bytes = availableBytes - share * memoryBytes;
  ballast?.resize(bytes);
  return bytes;
}

/** Processes that want more than the limit from which on their group is slowed down to a halt. */
async function startStalling(): Promise<AsyncDisposable> {
  const group = `/sys/fs/cgroup/hatch-test-stall-${process.pid}`;
  mkdirSync(group);
  writeFileSync(join(group, 'memory.high'), String(16 * MiB));
  const wanting = 'while :; do dd if=/dev/zero of=/dev/null bs=256M count=1; done';
  spawn('sh', ['-c', `echo $$ >${group}/cgroup.procs; ${wanting}`], { stdio: 'ignore' });
  const isTold = (): boolean => readPressure().memorySome > 20;
  await waitFor('the kernel tells of it', isTold, patience);
  return {
    async [Symbol.asyncDispose]() {
      writeFileSync(join(group, 'cgroup.kill'), '1');
      const isEmpty = (): boolean =>
        fieldOf(readFileSync(join(group, 'cgroup.events'), 'latin1'), 'populated') === 0;
      await waitFor('they are gone', isEmpty, patience);
      rmdirSync(group);
    },
  };
}

/** More that want to run than there are CPUs. */
function saturate(): Disposable {
  const spin = (): ChildProcess => spawn('sh', ['-c', 'while :; do :; done'], { stdio: 'ignore' });
  const children = Array.from({ length: 6 }, spin);
  return { [Symbol.dispose]: () => children.forEach((child) => child.kill('SIGKILL')) };
}
