/** The unit of ops/systemd, run by a systemd that is PID 1: of a VM that is made for that. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fieldOf } from '../../host/cgroup/control-files.ts';
import { isRunning, waitFor } from '../support/host-processes.ts';
import { assertNothingLeft, takeInventory, type Inventory } from '../support/leak-check.ts';
import { slowness } from '../support/slowness.ts';
import {
  groupOf,
  groupsIn,
  hatch,
  hatchJson,
  installUnit,
  ok,
  processesBelow,
  removeUnit,
  run,
  serviceGroup,
  stateOf,
  writeSettings,
} from '../support/systemd.ts';

const skip =
  process.env['HATCH_TEST_INIT'] === 'systemd'
    ? false
    : 'needs systemd as PID 1: npm run test:vm -- systemd';
const instances = join(serviceGroup, 'hatchery');
const supervisor = '/system.slice/hatch.service/supervisor';
const settings = { HATCH_PARKED: 2, HATCH_PARKED_MAX: 0, HATCH_FREEZE_IDLE_AFTER_MS: 500 };
const patience = { timeoutMs: 60_000 * slowness };
const MiB = 2 ** 20;
let inventory: Inventory;

interface Deployed {
  startRecord: { instanceId: string; path: string };
}

before(async () => {
  if (skip !== false) return;
  await installUnit();
  inventory = takeInventory();
});
after(async () => {
  if (skip === false) await removeUnit();
});
afterEach(async (context) => {
  if (!('passed' in context) || context.passed !== false || skip !== false) return;
  const journal = ['-u', 'hatch', '-o', 'short-monotonic', '--no-pager', '-n', '30'];
  process.stderr.write(await ok('journalctl', ...journal));
});

test('a wrong setting fails the start by name, and is not tried again', { skip }, async () => {
  writeSettings({ ...settings, HATCH_PARKED: 'many' });
  const { code, stderr } = await run('systemctl', 'start', 'hatch');
  assert.notEqual(code, 0);
  assert.match(stderr, /journalctl -xeu hatch/);
  assert.deepEqual(await stateOf('ActiveState', 'ExecMainStatus', 'NRestarts'), {
    ActiveState: 'failed',
    ExecMainStatus: '2',
    NRestarts: '0',
  });
  assert.match(await ok('journalctl', '-u', 'hatch', '-o', 'cat'), /error: .*HATCH_PARKED: /);
});

test('the unit has started when its host serves calls, and not before', { skip }, async () => {
  writeSettings(settings);
  await ok('systemctl', 'enable', 'hatch');
  await ok('systemctl', 'start', '--no-block', 'hatch');
  assert.equal((await stateOf('ActiveState')).ActiveState, 'activating');
  await ok('systemctl', 'start', 'hatch');
  const { startRecord } = await hatchJson<Deployed>('deploy', 'functions/hello');
  assert.equal(startRecord.path, 'parked');
  assert.equal(await call('hello', '{"name":"unit"}'), '{"greeting":"Hello, unit!"}');
  const state = await stateOf('ActiveState', 'SubState', 'StatusText', 'Result');
  assert.match(state.StatusText, /^Serves calls of 127\.0\.0\.1:\d+$/);
  assert.deepEqual(
    [state.ActiveState, state.SubState, state.Result],
    ['active', 'running', 'success'],
  );
});

test(
  'the host keeps to the subtree that it was given, with its limits in force',
  { skip },
  async () => {
    const pid = await mainPid();
    assert.equal(groupOf(pid), supervisor);
    assert.deepEqual(groupsIn(serviceGroup).toSorted(), ['hatchery', 'supervisor']);
    const others = processesBelow().filter((each) => groupOf(each) !== supervisor);
    for (const each of others)
      assert.ok(groupOf(each).startsWith('/system.slice/hatch.service/hatchery/'));
    // Two of the instance, and of each of two parked containers.
    assert.ok(others.length >= 6, `${others.length} processes in containers`);
    const { startRecord } = await deploy('limited', 'return 1', {
      memoryMb: 96,
      cpu: 0.5,
      pidsMax: 40,
    });
    const limit = (name: string): string =>
      readFileSync(join(instances, startRecord.instanceId, name), 'utf8').trim();
    assert.deepEqual(
      [limit('memory.max'), limit('cpu.max'), limit('pids.max')],
      [String(96 * MiB), '50000 100000', '40'],
    );
    // What the unit asks of the machine.
    const mounts = readFileSync('/proc/mounts', 'latin1');
    assert.match(
      mounts,
      /^cgroup2 \/sys\/fs\/cgroup .*nsdelegate.*favordynmods|favordynmods.*nsdelegate/m,
    );
    assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'latin1').trim(), '-900');
    assert.match(await profileOf(startRecord.instanceId), /^hatch-function/);
  },
);

test('daemon-reload and daemon-reexec disturb nothing', { skip }, async () => {
  const before = { pid: await mainPid(), processes: processesBelow() };
  const controllers = readFileSync(join(serviceGroup, 'cgroup.subtree_control'), 'utf8');
  for (const verb of ['daemon-reload', 'daemon-reexec']) {
    await ok('systemctl', verb);
    assert.equal(await call('hello', '{}'), '{"greeting":"Hello, world!"}');
    const again = await deploy(`after-${verb}`, 'return 1');
    assert.equal(again.startRecord.path, 'parked');
  }
  assert.equal(await mainPid(), before.pid);
  assert.equal(readFileSync(join(serviceGroup, 'cgroup.subtree_control'), 'utf8'), controllers);
  const now = new Set(processesBelow());
  assert.deepEqual(
    before.processes.filter((pid) => !now.has(pid)),
    [],
  );
});

test('a restart ends all and comes back with what is deployed, forked', { skip }, async () => {
  writeSettings({ ...settings, HATCH_PARKED: 0 });
  const old = { pid: await mainPid(), processes: processesBelow(), groups: groupsIn(instances) };
  await ok('systemctl', 'restart', 'hatch');
  assertGone(old);
  const { code, stdout, stderr } = await hatch('invoke', 'hello', '{"name":"again"}');
  assert.deepEqual([code, stdout], [0, '{"greeting":"Hello, again!"}'], stderr);
  assert.match(stderr, / forked /);
});

for (const whom of ['all', 'main'])
  test(`killed, ${whom} of it, the host is back with nothing left over`, { skip }, async () => {
    await call('hello', '{}');
    await waitFor('an idle instance is frozen', () => groupsIn(instances).some(isFrozen), patience);
    const old = { pid: await mainPid(), processes: processesBelow(), groups: groupsIn(instances) };
    const { NRestarts } = await stateOf('NRestarts');
    await ok('systemctl', 'kill', '--signal=KILL', `--kill-whom=${whom}`, 'hatch');
    const isBack = async (): Promise<boolean> => {
      const { ActiveState, MainPID } = await stateOf('ActiveState', 'MainPID');
      return ActiveState === 'active' && Number(MainPID) !== old.pid;
    };
    await waitFor('systemd has started it again', isBack, patience);
    assertGone(old);
    assert.equal(Number((await stateOf('NRestarts')).NRestarts), Number(NRestarts) + 1);
    assert.equal(await call('hello', '{}'), '{"greeting":"Hello, world!"}');
  });

test(
  'MemoryMax of the unit holds for all, and ends the function that took it',
  { skip },
  async () => {
    await deploy('modest', 'return process.pid');
    const hold = 'const all = Buffer.alloc(1000 * 2 ** 20, 1); return all.length;';
    await deploy('greedy', hold, { memoryMb: 1536, timeoutMs: 300_000 });
    const pid = await mainPid();
    await ok('systemctl', 'set-property', '--runtime', 'hatch', 'MemoryMax=900M');
    assert.equal(readFileSync(join(serviceGroup, 'memory.max'), 'utf8').trim(), String(900 * MiB));
    const { code, stderr } = await hatch('invoke', 'greedy');
    assert.equal(code, 1, stderr);
    assert.match(stderr, /the host ran out of memory.*function\.oom/);
    // The host goes on, and the manager does not take the function's end for the service's.
    assert.equal(await mainPid(), pid);
    assert.match(await call('modest', ''), /^\d+$/);
    assert.equal((await stateOf('ActiveState')).ActiveState, 'active');
    // The next start divides what it has.
    await ok('systemctl', 'restart', 'hatch');
    const [host] = await hatchJson<{ checks: { name: string; detail: string }[] }[]>('doctor');
    const memory = host?.checks.find(({ name }) => name === 'memory');
    assert.match(memory?.detail ?? '', / of 720 MiB/);
    await ok('systemctl', 'set-property', '--runtime', 'hatch', 'MemoryMax=infinity');
  },
);

test('CPUQuota of the unit holds for all of them together', { skip }, async () => {
  const spin = 'for (const end = Date.now() + 8000; Date.now() < end;); return 1;';
  for (const name of ['spin-1', 'spin-2']) await deploy(name, spin, { timeoutMs: 300_000 });
  const free = await coresUsed();
  await ok('systemctl', 'set-property', '--runtime', 'hatch', 'CPUQuota=40%');
  const held = await coresUsed();
  await ok('systemctl', 'set-property', '--runtime', 'hatch', 'CPUQuota=');
  assert.ok(free > 0.8, `${free} cores without a quota`);
  assert.ok(held < 0.5, `${held} cores with a quota of 0.4`);
});

test('a stop ends with success and leaves nothing behind', { skip }, async () => {
  const processes = processesBelow();
  await ok('systemctl', 'stop', 'hatch');
  const { ActiveState, Result } = await stateOf('ActiveState', 'Result');
  assert.deepEqual([ActiveState, Result], ['inactive', 'success']);
  assert.deepEqual(processes.filter(isRunning), []);
  await assertNothingLeft(inventory);
});

async function mainPid(): Promise<number> {
  return Number((await stateOf('MainPID')).MainPID);
}

async function call(name: string, payload: string): Promise<string> {
  const { code, stdout, stderr } = await hatch('invoke', name, payload);
  assert.equal(code, 0, stderr);
  return stdout.trim();
}

/** A function whose handler has that body. */
async function deploy(
  name: string,
  body: string,
  manifest: Record<string, unknown> = {},
): Promise<Deployed> {
  const directory = join('/tmp/functions', name);
  mkdirSync(directory, { recursive: true });
  const full = { name, entry: 'handler.ts', ...manifest };
  writeFileSync(join(directory, 'function.json'), JSON.stringify(full));
  writeFileSync(join(directory, 'handler.ts'), `export const handler = () => {\n${body}\n};\n`);
  return await hatchJson<Deployed>('deploy', directory);
}

function assertGone(old: { processes: number[]; groups: string[] }): void {
  assert.deepEqual(old.processes.filter(isRunning), []);
  const now = new Set(groupsIn(instances));
  assert.deepEqual(
    old.groups.filter((name) => now.has(name)),
    [],
  );
  assert.deepEqual(groupsIn(serviceGroup).toSorted(), ['hatchery', 'supervisor']);
}

function isFrozen(instance: string): boolean {
  const events = readFileSync(join(instances, instance, 'cgroup.events'), 'utf8');
  return fieldOf(events, 'frozen') === 1;
}

async function profileOf(instanceId: string): Promise<string> {
  const [pid] = processesBelow(join(instances, instanceId));
  return await ok('cat', `/proc/${pid}/attr/apparmor/current`);
}

/** By the whole unit, in the second in which it used most, while two functions want all. */
async function coresUsed(): Promise<number> {
  const usageUs = (): number =>
    fieldOf(readFileSync(join(serviceGroup, 'cpu.stat'), 'utf8'), 'usage_usec');
  let running = true;
  const calls = Promise.all([call('spin-1', ''), call('spin-2', '')]).finally(() => {
    running = false;
  });
  let most = 0;
  while (running) {
    const [beforeUs, beforeMs] = [usageUs(), performance.now()];
    await sleep(1000);
    most = Math.max(most, (usageUs() - beforeUs) / 1000 / (performance.now() - beforeMs));
  }
  await calls;
  return most;
}
