/** A host killed with -9 clears nothing away: its containers end, and the next host clears up. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startHost } from '../support/host.ts';
import { descendantsOf, isRunning, waitFor } from '../support/host-processes.ts';
import { nameHost } from '../support/named-host.ts';
import { slowness } from '../support/slowness.ts';

const source = `
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
export const handler = async (event: any) => {
  const stubborn = 'trap "" TERM; sleep 600';
  if (event?.orphan) spawn('/bin/sh', ['-c', stubborn], { detached: true }).unref();
  await sleep(event?.ms ?? 0);
  return 'done';
};`;

test('containers end with a killed host; the next one starts and leaves nothing', async () => {
  const named = await nameHost();
  const first = await startHost({ config: named.config });
  await first.deploy({ manifest: { name: 'f' }, 'handler.ts': source });
  await first.call('f', { orphan: true });
  void first.call('f', { ms: 60_000 }).catch(() => undefined);
  await sleep(100);
  const processes = descendantsOf(first.pid);
  assert.ok(processes.length >= 6, `${processes.length} processes`);
  await first.kill();
  await waitFor('every process is gone', () => !processes.some(({ pid }) => isRunning(pid)), {
    timeoutMs: 5000 * slowness,
  });

  const startedAt = performance.now();
  const second = await startHost({ config: first.config });
  const tookMs = performance.now() - startedAt;
  assert.ok(tookMs < 10_000 * slowness, `it took ${tookMs} ms`);
  const reply = await second.call('f', {});
  assert.equal(reply.json<string>(), 'done');
  await second.stop();
  await named.assertNothingLeft();
});

test('killed again and again while it starts, a host still comes up', async () => {
  const named = await nameHost();
  let host = await startHost({ config: named.config });
  await host.deploy({ manifest: { name: 'f' }, 'handler.ts': source });
  for (let death = 0; death < 3; death++) {
    await host.kill();
    host = await startHost({ config: host.config });
    assert.equal((await host.call('f', {})).json<string>(), 'done');
  }
  await host.stop();
  await named.assertNothingLeft();
});
