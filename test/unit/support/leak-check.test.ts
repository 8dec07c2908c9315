import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmdirSync,
  rmSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { assertNothingLeft, leftSince, takeInventory } from '../../support/leak-check.ts';

/** A prefix of its own, so that tests running at the same time are not taken for leaks. */
const prefix = `hatchlk${process.pid % 10_000}`;

test('reports a mount until it is gone', async () => {
  const directory = mkdtempSync(`/tmp/${prefix}-`);
  const before = takeInventory({ prefix });
  execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', directory]);
  assert.match(leftSince(before).join('\n'), new RegExp(`^mount ${directory} \\(tmpfs`));
  execFileSync('umount', [directory]);
  rmdirSync(directory);
  await assertNothingLeft(before);
});

test('reports a directory by prefix, and in a directory it is asked to watch', async () => {
  const watched = mkdtempSync(`/tmp/${prefix}-`);
  const before = takeInventory({ prefix, directories: [watched] });
  mkdirSync(join(watched, 'left'));
  mkdirSync(`/tmp/${prefix}-left`);
  assert.deepEqual(
    leftSince(before).sort(),
    [`path /tmp/${prefix}-left`, `path ${watched}/left`].sort(),
  );
  rmSync(`/tmp/${prefix}-left`, { recursive: true });
  rmSync(watched, { recursive: true });
  await assertNothingLeft(before);
});

test('reports a cgroup in every hierarchy', async () => {
  const roots = execFileSync('awk', ['$3 ~ /^cgroup/ { print $2 }', '/proc/self/mounts'], {
    encoding: 'utf8',
  });
  const groups = roots
    .trim()
    .split('\n')
    .map((root) => join(root, prefix));
  const before = takeInventory({ prefix });
  for (const group of groups) mkdirSync(group);
  assert.deepEqual(leftSince(before).sort(), groups.map((group) => `cgroup ${group}`).sort());
  for (const group of groups) rmdirSync(group);
  await assertNothingLeft(before);
});

test('reports a link and a network namespace', async () => {
  const before = takeInventory({ prefix });
  execFileSync('ip', ['link', 'add', prefix, 'type', 'bridge']);
  execFileSync('ip', ['netns', 'add', prefix]);
  const left = leftSince(before).join('\n');
  execFileSync('ip', ['netns', 'delete', prefix]);
  execFileSync('ip', ['link', 'delete', prefix]);
  assert.match(left, new RegExp(`^network namespace ${prefix}$`, 'm'));
  assert.match(left, new RegExp(`^link ${prefix}$`, 'm'));
  await assertNothingLeft(before);
});

test('reports a descriptor', async () => {
  const before = takeInventory({ prefix });
  const fd = openSync('/etc/hostname', 'r');
  assert.deepEqual(leftSince(before), [`descriptor ${fd} -> /etc/hostname`]);
  closeSync(fd);
  await assertNothingLeft(before);
});

test('reports a child, and waits for it to end', async () => {
  const before = takeInventory({ prefix });
  const child = spawn('sleep', ['0.3'], { stdio: 'ignore' });
  await sleep(20);
  assert.match(leftSince(before).join('\n'), new RegExp(`process ${child.pid} .*: sleep 0.3`));
  await assertNothingLeft(before);
  assert.equal(child.exitCode, 0);
});

test('reports a process that ran away from its parent, by its command line', async () => {
  const before = takeInventory({ prefix });
  const pid = await runAway(`bash -c 'exec -a ${prefix}-runaway sleep 5' & echo $!`);
  const left = leftSince(before).join('\n');
  process.kill(pid, 'SIGKILL');
  assert.match(left, new RegExp(`process ${pid} .*: ${prefix}-runaway 5`));
  await assertNothingLeft(before);
});

test('fails with a list when time is up', async () => {
  const before = takeInventory({ prefix });
  mkdirSync(`/tmp/${prefix}-left`);
  await assert.rejects(assertNothingLeft(before, { timeoutMs: 100 }), {
    message: `Clean up what is left behind:\n  path /tmp/${prefix}-left`,
  });
  rmdirSync(`/tmp/${prefix}-left`);
});

test('takes a name for ours only where the prefix begins a word', async () => {
  const before = takeInventory({ prefix });
  const script = `bash -c 'exec -a not${prefix} sleep 5' & echo $!`;
  const pid = await runAway(script);
  assert.match(readFileSync(`/proc/${pid}/cmdline`, 'utf8'), new RegExp(`not${prefix}`));
  assert.deepEqual(leftSince(before), []);
  process.kill(pid, 'SIGKILL');
});

/** Starts a script that prints the pid of a process it leaves behind. */
async function runAway(script: string): Promise<number> {
  const parent = spawn('bash', ['-c', script], { stdio: ['ignore', 'pipe', 'ignore'] });
  const [printed] = (await once(parent.stdout, 'data')) as [Buffer];
  await once(parent, 'exit');
  parent.stdout.destroy();
  // Until it has its new name it shows the script, with that name in it, or nothing at all.
  const pid = Number(printed.toString());
  while (/^bash|^$/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8'))) await sleep(5);
  return pid;
}
