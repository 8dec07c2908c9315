/** What the tests of start paths share: two functions, and what a reply and its trace must say. */
import assert from 'node:assert/strict';
import type { CallRecord, StartPath, Step } from '../../host/base/channels.ts';
import type { Reply, TestHost } from '../support/host.ts';

/** Each call gets an instance of its own. */
export const fresh = {
  manifest: { name: 'fresh', reuse: 'never' },
  'handler.ts': `
    let calls = 0;
    export const handler = () => ({ calls: (calls += 1), uptimeS: process.uptime() });`,
};
/** The same, with instances that stay. */
export const kept = { ...fresh, manifest: { name: 'kept' } };

/** The header and the trace agree, and the trace has the steps of a start when there was one. */
export async function assertPath(host: TestHost, reply: Reply, path: StartPath): Promise<void> {
  reply.json();
  assert.equal(reply.headers['Hatch-Start'], path);
  const record = await host.trace(reply.requestId);
  assert.equal(record.start, path);
  const { startRecord } = record;
  assert.equal(startRecord?.path, path === 'hot' ? undefined : path);
  if (startRecord !== undefined) assertSteps(record, startRecord.steps);
}

/** One parked before had its other steps then; one that boots takes them by itself. */
const expectedSteps: Record<StartPath, string[]> = {
  hot: [],
  parked: ['rootfs', 'drop', 'load'],
  forked: ['cgroup', 'network', 'namespaces', 'rootfs', 'drop', 'load'],
  booted: ['rootfs', 'load'],
};

function assertSteps({ startRecord }: CallRecord, steps: Step[]): void {
  const names = steps.map(({ name }) => name);
  const path = startRecord?.path ?? 'hot';
  for (const name of expectedSteps[path]) assert.ok(names.includes(name), names.join(' '));
  for (const { name, startNs, endNs } of steps) {
    assert.ok(startNs <= endNs, name);
    assert.ok(startNs >= (startRecord?.startNs ?? 0) && endNs <= (startRecord?.endNs ?? 0), name);
  }
}
