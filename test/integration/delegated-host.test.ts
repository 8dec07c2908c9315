/** A host as a manager of services starts it: in a delegated group, where it keeps to itself. */
import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { defaultRoot, detectCgroupLayout } from '../../host/cgroup/cgroup.ts';
import { setAttributeOfPath } from '../../host/sys/file.ts';
import { startHost, type TestHost } from '../support/host.ts';
import { descendantsOf, isRunning, waitFor, zygotePid } from '../support/host-processes.ts';
import { nameHost } from '../support/named-host.ts';

const isV2 = detectCgroupLayout() === 'v2';
const root = isV2 ? defaultRoot : join(defaultRoot, 'unified');
const service = `/hatch-test-${process.pid}.service`;
const supervisor = `${service}/supervisor`;

before(() => {
  // As a manager does: v1 controllers are nothing that it delegates.
  if (isV2) writeFileSync(join(root, 'cgroup.subtree_control'), '+cpu +memory +pids');
  mkdirSync(join(root, service));
  setAttributeOfPath(join(root, service), 'trusted.delegate', Buffer.from('1'));
});
after(() => {
  for (const group of [supervisor, service])
    if (existsSync(join(root, group))) rmdirSync(join(root, group));
});

test('a host in a delegated group makes all its groups there, and clears up there', async () => {
  const named = await nameHost();
  const host = await startIn(service, named.config);
  await host.deploy('functions/hello');
  await host.call('hello', {});
  if (isV2) assertKeepsTo(host);
  await host.kill();
  const left = descendantsOf(host.pid);
  await waitFor('every process is gone', () => !left.some(({ pid }) => isRunning(pid)));

  // A restarted service may find itself where the one before had moved to.
  const second = await startIn(isV2 ? supervisor : service, host.config);
  await second.call('hello', {});
  if (isV2) assertKeepsTo(second);
  await second.stop();
  if (isV2) assert.deepEqual(groupsIn(service), [basename(supervisor)]);
  await named.assertNothingLeft();
});

/** Started by a process of that group, which leaves it again. */
async function startIn(group: string, config: TestHost['config']): Promise<TestHost> {
  writeFileSync(join(root, group, 'cgroup.procs'), '0');
  try {
    return await startHost({ config });
  } finally {
    writeFileSync(join(root, 'cgroup.procs'), '0');
  }
}

function assertKeepsTo(host: TestHost): void {
  assert.equal(groupOf(host.pid), supervisor);
  assert.equal(groupOf(zygotePid(host) ?? 0), supervisor);
  assert.equal(existsSync(join(root, host.cgroupParent)), false);
  assert.deepEqual(groupsIn(service).toSorted(), [host.cgroupParent, 'supervisor'].toSorted());
  const instances = join(service, host.cgroupParent);
  const inside = descendantsOf(host.pid).filter(({ pid }) => groupOf(pid).startsWith(instances));
  assert.ok(inside.length >= 2, 'PID 1 and the function');
}

function groupOf(pid: number): string {
  return /^0::(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'latin1'))?.[1] ?? '';
}

function groupsIn(group: string): string[] {
  const entries = readdirSync(join(root, group), { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}
