/** The VM for tests on another kernel: what comes out of it, and how it ends. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { runInVm } from '../../ops/vm/run.ts';

// In the VM itself there is no second one.
const skip = process.env['HATCH_TEST_VM'] === undefined ? false : 'this is the VM';

test(
  'a command runs as root on a kernel with cgroup v2; output and status come back',
  {
    skip,
  },
  async () => {
    let output = '';
    const command = 'id --user; cat /sys/fs/cgroup/cgroup.controllers; uname --release; exit 7';
    const onOutput = (text: string) => (output += text);
    assert.equal(await runInVm({ command, limitMs: 120_000, onOutput }), 7);
    assert.match(output, /^0$/m);
    assert.match(output, /\bcpu io memory\b.*\bpids\b/);
    assert.match(output, /^\d+\.\d+.*-amd64$/m);
    assert.deepEqual(machines(), []);
  },
);

test('what hangs in it ends with the name of the limit', { skip }, async () => {
  let output = '';
  const run = runInVm({
    command: 'echo waiting; sleep 1000',
    limitMs: 15_000,
    onOutput: (text) => (output += text),
  });
  await assert.rejects(run, /the VM did not end its tests within 15 s; its console ends with:/);
  assert.match(output, /waiting/);
  assert.deepEqual(machines(), []);
});

/** QEMU's that are children of this process. */
function machines(): string[] {
  const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8');
  const alive = new Set(readdirSync('/proc'));
  return children.split(' ').filter((pid) => alive.has(pid) && commandOf(pid).includes('qemu'));
}

function commandOf(pid: string): string {
  return readFileSync(`/proc/${pid}/comm`, 'utf8');
}
