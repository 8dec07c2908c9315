/** What a process manager gives a host, on the real tree: a delegated group, or one that is not. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { defaultRoot, detectCgroupLayout, openCgroupDriver } from '../../host/cgroup/cgroup.ts';
import { enterSubtree } from '../../host/cgroup/subtree.ts';
import { setAttributeOfPath } from '../../host/sys/file.ts';

const layout = detectCgroupLayout();
/** Beside v1 controllers there is a tree without any, where all but limits is the same. */
const root = layout === 'v2' ? defaultRoot : join(defaultRoot, 'unified');
const service = `/hatch-test-${process.pid}.service`;
const group = join(root, service);
const subtreeModule = pathToFileURL(join(import.meta.dirname, '../../host/cgroup/subtree.ts')).href;

describe('a service with a group of its own', () => {
  let bystander: ChildProcess;
  before(async () => {
    mkdirSync(group);
    bystander = spawn('sh', ['-c', `echo 0 >${group}/cgroup.procs && exec sleep 600`]);
    await once(bystander, 'spawn');
    while (pidsOf(group).length === 0) await new Promise(setImmediate);
  });
  beforeEach(() => setAttributeOfPath(group, 'trusted.delegate', Buffer.from('0')));
  after(async () => {
    bystander.kill('SIGKILL');
    await once(bystander, 'exit');
    for (const path of [join(group, 'supervisor'), group]) rmdirSync(path);
  });

  test('is refused while that is not delegated, and nothing has changed', () => {
    const { stderr } = enterFrom(service);
    assert.match(stderr, /Cannot make control groups in "\/hatch-test.*set Delegate=yes/);
    assert.deepEqual(pidsOf(group), [bystander.pid]);
  });

  test('gets the whole tree where it was started by hand', () => {
    assert.deepEqual(JSON.parse(enterFrom(service, { isService: false }).stdout), {
      subtree: root,
      ownGroup: service,
    });
  });

  test('gets that when it is delegated, and all processes move into its leaf', () => {
    setAttributeOfPath(group, 'trusted.delegate', Buffer.from('1'));
    const expected = { subtree: group, ownGroup: `${service}/supervisor` };
    assert.deepEqual(JSON.parse(enterFrom(service).stdout), expected);
    assert.deepEqual([pidsOf(group), pidsOf(join(group, 'supervisor'))], [[], [bystander.pid]]);
    // Started again where the one before had moved to, as by a restart, or DelegateSubgroup=.
    assert.deepEqual(JSON.parse(enterFrom(`${service}/supervisor`).stdout), expected);
  });

  test('limits groups below it, when controllers are on above', async (context) => {
    if (layout !== 'v2') return context.diagnostic('limits are v1’s here, which delegates nothing');
    setAttributeOfPath(group, 'trusted.delegate', Buffer.from('1'));
    enterFrom(`${service}/supervisor`);
    writeFileSync(join(root, 'cgroup.subtree_control'), '+cpu +pids -memory');
    const open = () => openCgroupDriver({ root: group, parent: 'hatch-instances' });
    assert.throws(open, /does not offer the controllers memory; switch them on above/);
    writeFileSync(join(root, 'cgroup.subtree_control'), '+cpu +memory +pids');
    const driver = open();
    const instance = driver.create('i-1', { memoryBytes: 2 ** 26, pidsMax: 10 });
    const limit = readFileSync(join(group, 'hatch-instances/i-1/memory.max'), 'latin1');
    assert.equal(limit, `${2 ** 26}\n`);
    instance.closeJoinFds();
    await driver.close();
  });
});

test('at the top of the tree nothing moves', () => {
  const before = readFileSync('/proc/self/cgroup', 'latin1');
  assert.equal(enterSubtree({ root, ownGroup: '/' }), root);
  assert.equal(readFileSync('/proc/self/cgroup', 'latin1'), before);
});

/** A process that enters `ownGroup` and then does what a host does. */
function enterFrom(ownGroup: string, options: { isService?: boolean } = {}) {
  const { isService = true } = options;
  const script = `
    import { readFileSync } from 'node:fs';
    import { enterSubtree } from '${subtreeModule}';
    const subtree = enterSubtree({ root: '${root}', isService: ${isService} });
    const ownGroup = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'latin1'))[1];
    console.log(JSON.stringify({ subtree, ownGroup }));`;
  const enter = `echo 0 >${root}${ownGroup}/cgroup.procs`;
  const command = `${enter} && exec "$0" --input-type=module -e "$1"`;
  return spawnSync('sh', ['-c', command, process.execPath, script], { encoding: 'utf8' });
}

function pidsOf(path: string): number[] {
  const text = readFileSync(join(path, 'cgroup.procs'), 'latin1');
  return text.split('\n').filter(Boolean).map(Number);
}
