/** A thousand instances, fewer where all is slow, share nothing that should be their own. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Secrets } from '../functions/probe/handler.ts';
import { hostForFile } from '../support/file-host.ts';
import { slowness } from '../support/slowness.ts';

const getHost = hostForFile({ config: { parked: 4 } });
const instanceCount = Math.ceil(1000 / slowness);
const callers = 8;
/** By then the last of many has been started beside the first. */
const togetherMs = 8000 * slowness;

test(`1 of ${instanceCount} instances no two share an id, a random number or a key`, async () => {
  const host = getHost();
  await host.deploy('test/functions/probe', { name: 'fresh', reuse: 'never' });
  const all: Secrets[] = [];
  const paths = new Set<string>();
  let started = 0;
  const callUntilDone = async () => {
    while (started < instanceCount) {
      started += 1;
      const reply = await host.call('fresh', { do: 'secrets' });
      paths.add(reply.start ?? '');
      all.push(reply.json<Secrets>());
    }
  };
  await Promise.all(Array.from({ length: callers }, callUntilDone));
  assert.equal(all.length, instanceCount);
  assert.ok(paths.has('parked') && paths.has('forked'), [...paths].join(' '));

  for (const kind of ['uuid', 'bytes', 'number', 'keyFingerprint', 'hostname'] as const)
    assert.equal(new Set(all.map((one) => one[kind])).size, instanceCount, kind);
  for (const { pid, pids } of all) assert.deepEqual({ pid, pids }, { pid: 2, pids: [1, 2] });
});

test('1 instances that live at the same time share no namespace', async () => {
  const host = getHost();
  const together = 64;
  await host.deploy({
    manifest: { name: 'together', instancesMax: together, timeoutMs: 120_000 },
    'handler.ts': `
      import { readlinkSync } from 'node:fs';
      import { setTimeout as sleep } from 'node:timers/promises';
      const kinds = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts'];
      export const handler = async () => {
        await sleep(${togetherMs});
        return kinds.map((kind) => readlinkSync('/proc/self/ns/' + kind));
      };`,
  });
  const calls = Array.from({ length: together }, () => host.call('together'));
  const namespaces = (await Promise.all(calls)).flatMap((reply) => reply.json<string[]>());
  assert.equal(new Set(namespaces).size, together * 7);
});
