/** A call is served hot, parked, forked or booted, and its reply and its trace say which. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostForFile } from '../support/file-host.ts';
import type { TestHost } from '../support/host.ts';
import { assertPath, fresh, kept } from './start-paths.ts';

const parked = 3;
const getHost = hostForFile({ config: { parked } });

test('9.2 calls of one instance are hot', async () => {
  const host = getHost();
  await host.deploy(kept);
  for (const calls of [1, 2, 3]) {
    const reply = await host.call('kept');
    assert.equal(reply.json<{ calls: number }>().calls, calls);
    await assertPath(host, reply, 'hot');
  }
});

test('9.2 of calls that need an instance each, the first are parked, the rest forked', async () => {
  const host = getHost();
  await host.deploy(fresh);
  // The instance that the deploy made ready serves this one.
  await assertPath(host, await host.call('fresh'), 'hot');
  await waitUntilParked(host, parked);
  const replies = await Promise.all(Array.from({ length: 8 }, () => host.call('fresh')));
  assert.ok(replies.every((reply) => reply.json<{ calls: number }>().calls === 1));
  const paths = replies.map(({ start }) => start ?? '');
  assert.equal(paths.filter((path) => path === 'parked').length, parked, paths.join(' '));
  assert.equal(paths.filter((path) => path === 'forked').length, 8 - parked, paths.join(' '));
  for (const reply of replies) await assertPath(host, reply, reply.start ?? 'hot');
  const ids = await Promise.all(replies.map(({ requestId }) => host.trace(requestId)));
  assert.equal(new Set(ids.map(({ instanceId }) => instanceId)).size, replies.length);
});

async function waitUntilParked(host: TestHost, count: number): Promise<void> {
  const deadline = performance.now() + 10_000;
  while ((await host.status()).parked < count) {
    assert.ok(performance.now() < deadline, 'containers are not parked again');
    await sleep(20);
  }
}
