import assert from 'node:assert/strict';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { examineCgroups } from '../../../host/cgroup/offer.ts';

test('v2: the controllers of its root, and kill if a group has it', () => {
  const v2 = { 'cgroup.controllers': 'cpuset cpu io memory pids\n' };
  assert.deepEqual(offerOf(v2), {
    layout: 'v2',
    controllers: ['cpu', 'cpuset', 'io', 'memory', 'pids'],
    missing: [],
    kill: undefined,
    slowEntry: true,
  });
  assert.equal(offerOf({ ...v2, 'system.slice/cgroup.kill': '' }).kill, true);
  assert.equal(offerOf({ ...v2, 'system.slice/cgroup.freeze': '' }).kill, false);
  assert.deepEqual(offerOf({ 'cgroup.controllers': 'cpu\n' }).missing, ['memory', 'pids']);
});

test('hybrid and v1: the hierarchies that control something', () => {
  const v1 = { 'cpu/tasks': '', 'memory/tasks': '', 'pids/tasks': '', 'systemd/tasks': '' };
  assert.deepEqual(offerOf(v1), {
    layout: 'v1',
    controllers: ['cpu', 'memory', 'pids'],
    missing: [],
    kill: false,
    slowEntry: false,
  });
  // The kill of its other tree is not for the groups that have limits.
  const hybrid = { ...v1, 'unified/cgroup.controllers': '\n', 'unified/a/cgroup.kill': '' };
  assert.deepEqual(offerOf(hybrid), { ...offerOf(v1), layout: 'hybrid' });
});

test('v2: entering is quick where it is mounted so', () => {
  const files = { 'cgroup.controllers': 'cpu memory pids\n' };
  const quick = (root: string) => `cgroup2 ${root} cgroup2 rw,nsdelegate,favordynmods 0 0\n`;
  assert.equal(offerOf(files, quick).slowEntry, false);
  assert.equal(offerOf(files, () => quick('/elsewhere')).slowEntry, true);
  const remounted = (root: string) => `${quick(root)}cgroup2 ${root} cgroup2 rw 0 0\n`;
  assert.equal(offerOf(files, remounted).slowEntry, true);
});

function offerOf(files: Record<string, string>, mountTable: (root: string) => string = () => '') {
  const root = fs.mkdtempSync(join(tmpdir(), 'hatch-cgroups-'));
  try {
    for (const [path, content] of Object.entries(files)) {
      fs.mkdirSync(dirname(join(root, path)), { recursive: true });
      fs.writeFileSync(join(root, path), content);
    }
    return examineCgroups(root, mountTable(root));
  } finally {
    fs.rmSync(root, { recursive: true });
  }
}
