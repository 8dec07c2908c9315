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
  });
  const hybrid = { ...v1, 'unified/cgroup.controllers': '\n', 'unified/a/cgroup.kill': '' };
  assert.deepEqual(offerOf(hybrid), { ...offerOf(v1), layout: 'hybrid', kill: true });
});

function offerOf(files: Record<string, string>) {
  const root = fs.mkdtempSync(join(tmpdir(), 'hatch-cgroups-'));
  try {
    for (const [path, content] of Object.entries(files)) {
      fs.mkdirSync(dirname(join(root, path)), { recursive: true });
      fs.writeFileSync(join(root, path), content);
    }
    return examineCgroups(root);
  } finally {
    fs.rmSync(root, { recursive: true });
  }
}
