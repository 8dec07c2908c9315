/** A zygote gets old: another takes its place, and what waits with the old layout is given up. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { processesOf } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import { descendantsOf, isRunning, waitFor, zygotePid } from '../support/host-processes.ts';
import { slowness } from '../support/slowness.ts';

const parked = 2;
const pairs = 2;
const host = hostForFile({ config: { parked, replaceZygoteAfterMs: 3000 * slowness } });

/** PID 1 of each container and of each pair that waits. */
function childrenOf(zygote: number): number[] {
  const children = descendantsOf(zygote).filter(({ parent }) => parent === zygote);
  return children.map(({ pid }) => pid);
}

test('pairs and parked containers of a replaced zygote end, its instances live', async () => {
  const source = 'let calls = 0; export const handler = () => (calls += 1);';
  await host().deploy({ manifest: { name: 'kept' }, 'handler.ts': source });
  await host().call('kept');
  let old = 0;
  let waiting: number[] = [];
  const [instance = ''] = await host().instancesOf('kept');
  const kept = processesOf(host(), instance)[0]?.hostPid ?? 0;
  await waitFor('a zygote with all that waits', () => {
    old = zygotePid(host()) ?? 0;
    waiting = childrenOf(old).filter((pid) => pid !== kept);
    return waiting.length === parked + pairs;
  });
  await waitFor('its end', () => !isRunning(old));
  await waitFor('their end', () => !waiting.some(isRunning));
  assert.ok(isRunning(kept));
  assert.equal((await host().call('kept')).json<number>(), 2);
  await waitFor('parked again', async () => (await host().status()).parked === parked);
});
