/** More calls than there is room for, and a host that stops in the middle of them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startHost, type Reply, type TestHost } from '../support/host.ts';
import { descendantsOf, waitFor } from '../support/host-processes.ts';
import { nameHost } from '../support/named-host.ts';

const source = `
import { setTimeout as sleep } from 'node:timers/promises';
export const handler = async (event: any) => { await sleep(event?.ms ?? 0); return process.pid; };`;

test('200 calls at once to a function with no instance are all answered', async () => {
  const named = await nameHost();
  const host = await startHost({ config: named.config });
  await host.deploy({
    manifest: { name: 'burst', instancesMax: 40, reuse: 'never', timeoutMs: 60_000 },
    'handler.ts': source,
  });
  await host.call('burst');
  const calls = Array.from({ length: 200 }, () =>
    host.call('burst', { ms: 5 }, { timeoutMs: 60_000 }),
  );
  for (const reply of await Promise.all(calls))
    assert.equal(reply.error, undefined, reply.error?.message);
  await waitFor(
    'all instances are gone',
    async () => (await host.instancesOf('burst')).length === 0,
  );
  await host.stop();
  await named.assertNothingLeft();
});

test('at the host\u2019s limit functions take turns, and every call is answered', async () => {
  const named = await nameHost({ instancesMax: 3, uidRanges: 8 });
  const host = await startHost({ config: named.config });
  const names = ['a', 'b', 'c', 'd', 'e', 'f'];
  for (const name of names) await host.deploy({ manifest: { name }, 'handler.ts': source });
  const replies: Reply[] = [];
  const loops = names.map(async (name) => {
    for (let call = 0; call < 15; call++) replies.push(await host.call(name, { ms: 2 }));
  });
  await Promise.all(loops);
  for (const { error } of replies) assert.equal(error, undefined, error?.message);
  assert.ok((await host.status()).instances.length <= 3);
  await host.stop();
  await named.assertNothingLeft();
});

interface Outcome {
  done: number;
  draining: number;
  unanswered: number;
  other: string[];
}

/** Calls from several callers at once until the host is gone. */
function keepCalling(host: TestHost): { outcome: Outcome; stop: () => Promise<void> } {
  const outcome: Outcome = { done: 0, draining: 0, unanswered: 0, other: [] };
  let stopped = false;
  const loops = Array.from({ length: 8 }, async () => {
    while (!stopped) {
      try {
        const { error } = await host.call('work', { ms: 20 }, { timeoutMs: 2000 });
        if (error === undefined) outcome.done++;
        else if (error.code === 'host.draining') outcome.draining++;
        else outcome.other.push(`${error.code}: ${error.message}`);
      } catch {
        // Nobody listens any more, or the server is gone.
        outcome.unanswered++;
        await sleep(20);
      }
    }
  });
  return {
    outcome,
    stop: async () => {
      stopped = true;
      await Promise.all(loops);
    },
  };
}

for (const how of ['SIGTERM', 'Ctrl-C'] as const)
  test(`a host that stops by ${how} under load ends what runs and leaves nothing`, async () => {
    const named = await nameHost();
    const host = await startHost({ config: named.config });
    await host.deploy({ manifest: { name: 'work', instancesMax: 6 }, 'handler.ts': source });
    await host.deploy({ manifest: { name: 'long' }, 'handler.ts': source });
    const { outcome, stop } = keepCalling(host);
    await sleep(500);
    const long = host.call('long', { ms: 700 });
    await sleep(50);
    const inGroup = descendantsOf(host.pid).filter(
      ({ processGroup }) => processGroup === groupOf(host.pid),
    );
    const targets = how === 'SIGTERM' ? [host.pid] : [host.pid, ...inGroup.map(({ pid }) => pid)];
    const stoppedAt = performance.now();
    for (const pid of targets) process.kill(pid, how === 'SIGTERM' ? 'SIGTERM' : 'SIGINT');
    assert.equal((await long).error, undefined, 'what was under way ends in peace');
    await waitFor('the host has ended', () => !host.alive);
    assert.ok(performance.now() - stoppedAt < 5000);
    assert.equal(host.exitCode, 0);
    await stop();
    assert.deepEqual(outcome.other, []);
    assert.ok(outcome.done > 20, JSON.stringify(outcome));
    await host.stop();
    await named.assertNothingLeft();
  });

test('calls that outlast the drain are told so, and the host ends in time', async () => {
  const named = await nameHost({ drainMs: 300 });
  const host = await startHost({ config: named.config });
  await host.deploy({ manifest: { name: 'work', timeoutMs: 60_000 }, 'handler.ts': source });
  const endless = host.call('work', { ms: 50_000 });
  await sleep(100);
  process.kill(host.pid, 'SIGTERM');
  const stoppedAt = performance.now();
  assert.equal((await endless).error?.code, 'host.draining');
  await waitFor('the host has ended', () => !host.alive);
  assert.ok(performance.now() - stoppedAt < 3000);
  await host.stop();
  await named.assertNothingLeft();
});

function groupOf(pid: number): number {
  const parent = descendantsOf(process.pid).find((one) => one.pid === pid);
  return parent?.processGroup ?? 0;
}
