/** PID 1 of a container: adopts and reaps, passes signals on, ends with the function's status. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { constants } from 'node:os';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { openCgroupDriver } from '../../host/cgroup/cgroup.ts';
import { buildProbe, processesOf, startProbe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import type { Reply, TestHost } from '../support/host.ts';

const getHost = hostForFile({ config: { parked: 8 } });
const MiB = 2 ** 20;
const orphanCount = 300;
const intervalMs = 20;

interface Orphans {
  left: number;
  refused: number;
  zombiesMost: number;
  zombiesAtEnd: number;
}

test('2.1 300 orphans of a container are reaped as they come', async () => {
  const probe = await startProbe(getHost(), 'orphans');
  const said = await probe.run('orphans', String(orphanCount), String(intervalMs));
  const { left, refused, zombiesMost, zombiesAtEnd } = JSON.parse(said) as Orphans;
  assert.deepEqual({ left, refused, zombiesAtEnd }, { left: 300, refused: 0, zombiesAtEnd: 0 });
  assert.ok(zombiesMost <= 1, `${zombiesMost} zombies at one look`);
  assert.equal(processesOf(getHost(), probe.instanceId).length, 2);
});

test('2.1 under a PID 1 that does not reap, the same orphans pile up', () => {
  const { left, refused, zombiesAtEnd } = underNeverReaping({ intervalMs: 1 });
  assert.deepEqual({ left, refused, zombiesAtEnd }, { left: 300, refused: 0, zombiesAtEnd: 300 });
});

test('2.3 zombies count against the limit: without reaping, forks soon fail', async () => {
  const pidsMax = 64;
  const leaking = underNeverReaping({ intervalMs: 1, pidsMax });
  // PID 1, the workload, and the child that would have left the next orphan take three places.
  assert.ok(leaking.left > pidsMax - 8 && leaking.left < pidsMax, JSON.stringify(leaking));
  assert.equal(leaking.refused, orphanCount - leaking.left);

  const probe = await startProbe(getHost(), 'within', { pidsMax });
  const said = await probe.run('orphans', String(orphanCount), '5');
  const { left, refused } = JSON.parse(said) as Orphans;
  assert.deepEqual({ left, refused }, { left: 300, refused: 0 });
});

/** The workload in a pid namespace, and a group, of its own, with the PID 1 that never reaps. */
function underNeverReaping(options: { intervalMs: number; pidsMax?: number }): Orphans {
  using probe = buildProbe();
  const parent = `hatch-leak-${randomBytes(4).toString('hex')}`;
  const driver = openCgroupDriver({ parent });
  const group = driver.create('leak', {
    memoryBytes: 256 * MiB,
    cpuCores: undefined,
    cpuWeight: 100,
    pidsMax: options.pidsMax ?? 1000,
  });
  const joined = group.joinFds.map((_fd, index) => `echo 0 >&${index + 3}`).join('\n');
  const work = [probe.program, 'orphans', String(orphanCount), String(options.intervalMs)];
  const program = ['unshare', '--pid', '--fork', '--mount-proc', probe.program, 'never-reap'];
  try {
    const result = spawnSync('sh', ['-c', `${joined}\nexec "$@"`, 'sh', ...program, ...work], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe', ...group.joinFds],
    });
    assert.equal(result.status, 0, result.stderr);
    return JSON.parse(result.stdout) as Orphans;
  } finally {
    void driver.close();
  }
}

/** SIGKILL and SIGSTOP cannot be caught; SIGCHLD tells PID 1 of its own children. */
const caughtByInit = [9, 17, 19];
const realTime = Array.from({ length: 64 - 34 + 1 }, (_value, index) => 34 + index);

test('2.2 every signal that can be caught reaches the function by way of PID 1', async () => {
  const host = getHost();
  const names = Object.entries(constants.signals)
    .filter(([name, number]) => !caughtByInit.includes(number) && !/IOT|POLL/.test(name))
    .map(([name]) => name);
  assert.equal(names.length, 31 - caughtByInit.length);
  const { startRecord } = await host.deploy({
    manifest: { name: 'catches' },
    'handler.ts': `
      const seen: string[] = [];
      for (const name of ${JSON.stringify(names)})
        process.on(name, () => { seen.push(name); });
      export const handler = () => seen;`,
  });
  const [init] = processesOf(host, startRecord.instanceId);
  // One by one: a signal that stops and the one that continues wipe each other out.
  for (const [index, name] of names.entries()) {
    process.kill(init?.hostPid ?? 0, name);
    const deadline = performance.now() + 2000;
    let seen: string[] = [];
    while (seen.length <= index && performance.now() < deadline)
      seen = (await host.call('catches')).json<string[]>();
    assert.deepEqual(seen, names.slice(0, index + 1));
  }
});

test('2.2 a function ended by any signal is reported as 128 + n, and PID 1 ends so', async () => {
  const host = getHost();
  await host.deploy(mortal);
  // Node.js itself ignores SIGPIPE and SIGXFSZ; a stop and what is ignored by default end nothing.
  const { SIGPIPE, SIGXFSZ, SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT, SIGURG, SIGWINCH } =
    constants.signals;
  const harmless = [SIGPIPE, SIGXFSZ, SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT, SIGURG, SIGWINCH];
  const deadly = Array.from({ length: 31 }, (_value, index) => index + 1)
    .filter((number) => !caughtByInit.includes(number) && !harmless.includes(number))
    .concat(realTime);
  await using watcher = new ExitWatcher();
  for (const number of deadly) {
    const end = await endBySignal(host, watcher, number);
    const expected = { exitCode: 128 + number, signal: number, init: `exited ${128 + number}` };
    assert.deepEqual(end, expected, `signal ${number}`);
  }
});

test('2.2 the exit codes 0 to 255 of a function are reported, and PID 1 ends so', async () => {
  const host = getHost();
  await host.deploy(mortal);
  await using watcher = new ExitWatcher();
  for (let exitCode = 0; exitCode <= 255; exitCode += 1) {
    const end = await endByExit(host, watcher, exitCode);
    assert.deepEqual(end, { exitCode, signal: undefined, init: `exited ${exitCode}` });
  }
});

/** Tells its instance, ends as asked, or waits for its end. */
const mortal = {
  manifest: { name: 'mortal', concurrency: 2 },
  'handler.ts': `
    import { hostname } from 'node:os';
    let waiting = 0;
    export const handler = (event: { exit?: number; wait?: boolean } | undefined) => {
      if (event?.exit !== undefined) process.exit(event.exit);
      if (event?.wait === undefined) return { instanceId: hostname(), waiting };
      waiting += 1;
      return new Promise(() => {});
    };`,
};

interface Looked {
  instanceId: string;
  waiting: number;
}

interface End {
  exitCode: unknown;
  signal: unknown;
  /** How PID 1 itself ended. */
  init: string;
}

async function endBySignal(host: TestHost, watcher: ExitWatcher, signal: number): Promise<End> {
  const call = host.call('mortal', { wait: true });
  const look = async () => (await host.call('mortal')).json<Looked>();
  let looked = await look();
  while (looked.waiting === 0) looked = await look();
  const initPid = initOf(host, looked.instanceId);
  const { ended } = await watcher.watch(initPid);
  process.kill(initPid, signal);
  return await endOf(call, ended);
}

async function endByExit(host: TestHost, watcher: ExitWatcher, exit: number): Promise<End> {
  const { instanceId } = (await host.call('mortal')).json<Looked>();
  const { ended } = await watcher.watch(initOf(host, instanceId));
  return await endOf(host.call('mortal', { exit }), ended);
}

async function endOf(call: Promise<Reply>, initEnded: Promise<string>): Promise<End> {
  const { error } = await call;
  assert.equal(error?.code, 'function.exited', `${error?.message}`);
  const { exitCode, signal } = error.details;
  return { exitCode, signal, init: await initEnded };
}

function initOf(host: TestHost, instanceId: string): number {
  const [init] = processesOf(host, instanceId);
  assert.equal(init?.nsPid, 1);
  return init.hostPid;
}

/** Sees exits as a tracer: their parent, the zygote, does not wait for them. */
class ExitWatcher {
  readonly #probe = buildProbe();
  readonly #child = spawn(this.#probe.program, ['watch-exits'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  readonly #lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();

  /** Resolves once it watches, with a promise for how the process ended. */
  async watch(pid: number): Promise<{ ended: Promise<string> }> {
    this.#child.stdin.write(`${pid}\n`);
    assert.equal(await this.#line(), `watching ${pid}`);
    const ended = this.#line().then((line) => line.replace(`${pid} `, ''));
    return { ended };
  }

  async #line(): Promise<string> {
    const { value } = await this.#lines.next();
    return String(value);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const exit = once(this.#child, 'exit');
    this.#child.stdin.end();
    await exit;
    this.#probe[Symbol.dispose]();
  }
}
