/** One host for all tests of a file, and the check that it leaves nothing behind. */
import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import { startHost, type StartHostOptions, type TestHost } from './host.ts';
import { assertNothingLeft, takeInventory } from './leak-check.ts';

/** Call it at the top of a test file; the host is there once the tests run. */
export function hostForFile(options: StartHostOptions = {}): () => TestHost {
  const inventory = takeInventory();
  let host: TestHost | undefined;
  before(async () => {
    host = await startHost(options);
  });
  after(async () => {
    await host?.stop();
    await assertNothingLeft(inventory);
  });
  return () => {
    assert.ok(host, 'the host did not start');
    return host;
  };
}
