/** Processes that were forked ahead and die before they are given an order. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { hostForFile } from '../support/file-host.ts';
import { descendantsOf, waitFor, zygotePid } from '../support/host-processes.ts';

const host = hostForFile({ config: { parked: 0 } });

/** PID 1 of each pair that waits; those of containers have given up being root. */
function waitingPairs(): number[] {
  const zygote = zygotePid(host()) ?? assert.fail('there is no zygote');
  const children = descendantsOf(zygote).filter(({ parent }) => parent === zygote);
  return children.map(({ pid }) => pid).filter(belongsToRoot);
}

function belongsToRoot(pid: number): boolean {
  try {
    return /^Uid:\s+0\s/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
  } catch {
    // It has ended since it was listed.
    return false;
  }
}

test('are passed over by the next start', async () => {
  const source = 'export const handler = () => process.pid;';
  await host().deploy({ manifest: { name: 'fresh', reuse: 'never' }, 'handler.ts': source });
  // The instance that the deploy has tried.
  await host().call('fresh', {});
  await waitFor('two pairs', () => waitingPairs().length === 2);
  const dead = waitingPairs();
  for (const pid of dead) process.kill(pid, 'SIGKILL');
  await waitFor('their end', () => waitingPairs().every((pid) => !dead.includes(pid)));
  const { error, start } = await host().call('fresh', {});
  assert.equal(error, undefined);
  assert.equal(start, 'forked');
});
