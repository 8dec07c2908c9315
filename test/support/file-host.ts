/** One host for all tests of a file, and the check that it leaves nothing behind. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startHost, type StartHostOptions, type TestHost } from './host.ts';
import { assertNothingLeft, takeInventory } from './leak-check.ts';

/**
 * Call it at the top of a test file; the host is there once the tests run. What is looked for
 * afterwards has a name of this host, so that nothing else on the machine disturbs.
 */
export function hostForFile(options: StartHostOptions = {}): () => TestHost {
  const name = `hatch-test-${randomBytes(4).toString('hex')}`;
  const inventory = takeInventory({ prefix: name });
  let host: TestHost | undefined;
  before(async () => {
    const stateDirectory = await mkdtemp(join(tmpdir(), `${name}-`));
    const config = { stateDirectory, cgroupParent: name, ...options.config };
    host = await startHost({ ...options, config });
  });
  after(async () => {
    const family = host === undefined ? [] : descendantsOf(host.pid);
    await host?.stop();
    await assertNothingLeft(inventory);
    await assertEnded(family);
  });
  return () => {
    assert.ok(host, 'the host did not start');
    return host;
  };
}

/** Processes lose their parent when the host ends: they are known by what they were before. */
function descendantsOf(pid: number): string[] {
  return childrenOf(pid).flatMap((child) => [identify(child) ?? '', ...descendantsOf(child)]);
}

function childrenOf(pid: number): number[] {
  try {
    const tasks = readdirSync(`/proc/${pid}/task`);
    const lists = tasks.map((task) => readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8'));
    return lists.flatMap((list) => list.split(' ').filter(Boolean).map(Number));
  } catch {
    // It ended while we looked.
    return [];
  }
}

/** Nobody waits for the last of them: the kernel ends those whose PID 1 or socket is gone. */
async function assertEnded(family: string[]): Promise<void> {
  const deadline = performance.now() + 5000;
  while (family.some(isRunning) && performance.now() < deadline) await sleep(20);
  assert.deepEqual(family.filter(isRunning), []);
}

/** Process id and start time: ids are used again. */
function identify(pid: number): string | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ');
    // It has ended; only its new parent has not looked yet.
    if (fields?.[0] === 'Z') return undefined;
    return `${pid} since ${fields?.[19]}`;
  } catch {
    return undefined;
  }
}

function isRunning(identity: string): boolean {
  return identify(Number(identity.split(' ')[0])) === identity;
}
