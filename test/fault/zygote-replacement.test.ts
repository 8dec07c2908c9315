/** A zygote serves a number of forks, then another takes its place while calls go on. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostForFile } from '../support/file-host.ts';
import { descendantsOf, waitFor, zygotePid } from '../support/host-processes.ts';
import { slowness } from '../support/slowness.ts';

const host = hostForFile({ config: { replaceZygoteAfterForks: 5 } });

test('zygotes replace one another under load without a failed call', async () => {
  await host().deploy({
    manifest: { name: 'fresh', reuse: 'never', instancesMax: 8 },
    'handler.ts': 'export const handler = () => process.pid;',
  });
  const seen = new Set<number | undefined>();
  const deadline = performance.now() + 30_000 * slowness;
  while (seen.size < 4) {
    assert.ok(performance.now() < deadline, `only ${seen.size} zygotes`);
    const calls = Array.from({ length: 10 }, () => host().call('fresh'));
    for (const { error } of await Promise.all(calls))
      assert.equal(error, undefined, error?.message);
    seen.add(zygotePid(host()));
  }
  await waitFor('only one zygote is left', () => {
    const children = descendantsOf(host().pid).filter(({ parent }) => parent === host().pid);
    return children.filter(({ command }) => command.startsWith('hatch-zygote')).length === 1;
  });
});
