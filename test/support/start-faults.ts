/**
 * Kills what takes part in a start, after each of its steps. The host and its containers are made
 * to stop themselves there (stop-at-steps.ts); who drives them looks on, kills the victim, and lets
 * the others go on.
 *
 * Leaves the machine's network, for good.
 *
 *     await using faults = await StartFaults.open();
 *     await faults.inject({ path: 'forked', step: 'rootfs', victim: 'zygote' });
 *     await faults.assertNothingLeft();
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { stepNames, type StepName } from '../../host/base/channels.ts';
import { buildImage } from '../../images/build.ts';
import { readRecipe } from '../../images/recipe.ts';
import { startHost, type TestHost } from './host.ts';
import { descendantsOf, isRunning, parentOf, waitFor } from './host-processes.ts';
import { nameHost, type NamedHost } from './named-host.ts';
import { slowness } from './slowness.ts';
import { stepInTitle } from './step-title.ts';
import { assertNetworkUntouched, leaveMachineNetwork } from './test-network.ts';

const repository = resolve(import.meta.dirname, '../..');
const pollMs = 2;
const blankPairs = 2;

export const victims = ['controller', 'zygote', 'PID 1', 'function'] as const;
export type Victim = (typeof victims)[number];

/** Which steps the start of a new container has on each path; `connected` is one with egress. */
const stepsOf = {
  forked: stepNames.filter((name) => name !== 'egress'),
  booted: ['limits', 'overlay', 'rootfs', 'load'],
  connected: stepNames,
} as const satisfies Record<string, readonly StepName[]>;
export type FaultPath = keyof typeof stepsOf;
export const paths = Object.keys(stepsOf) as FaultPath[];

/** After which steps of such a start the victim may die. */
export function stepsWith(victim: Victim, path: FaultPath): readonly StepName[] {
  // The container's own processes are not there before.
  return stepsOf[path].filter((name) => victim === 'controller' || name !== 'egress');
}

export interface Fault {
  path: FaultPath;
  step: StepName;
  victim: Victim;
}

interface Stopped {
  pid: number;
  step: string;
}

export class StartFaults {
  readonly #named: NamedHost;
  readonly #imageDirectory: string;
  /** Who may have stopped, and has to be told to go on. */
  readonly #known = new Set<number>();
  #host: TestHost | undefined;
  #driver: Promise<void> | undefined;
  #closed = false;
  #ending = false;
  #starting: Promise<TestHost> | undefined;
  #onStopped: ((stopped: Stopped) => Promise<void>) | undefined;

  static async open(): Promise<StartFaults> {
    leaveMachineNetwork();
    const imageDirectory = await mkdtemp(join(tmpdir(), 'hatch-faults-'));
    await buildImage({
      recipe: await readRecipe('node24'),
      outputDirectory: join(imageDirectory, 'image'),
      cacheDirectory: join(repository, '.cache', 'build'),
      runtimeEntry: join(repository, 'test', 'functions', 'stopping-runtime.ts'),
    });
    const named = await nameHost({
      parked: 0,
      baseImageDirectory: join(imageDirectory, 'image'),
      firewall: 'nftables',
    });
    const faults = new StartFaults(named, imageDirectory);
    faults.#driver = faults.#drive();
    try {
      const host = await faults.#start();
      const source = 'let calls = 0; export const handler = () => (calls += 1);';
      for (const name of paths)
        await host.deploy({
          manifest: { name, reuse: 'never', keepAliveMs: 0, ...manifestOf[name] },
          'handler.ts': source,
        });
      for (const name of paths) await faults.#assertCalls(name);
      await faults.#settle();
    } catch (error) {
      await faults[Symbol.asyncDispose]();
      throw error;
    }
    return faults;
  }

  private constructor(named: NamedHost, imageDirectory: string) {
    this.#named = named;
    this.#imageDirectory = imageDirectory;
  }

  get host(): TestHost {
    return this.#host ?? assert.fail('no host runs');
  }

  /** Starts an instance, kills the victim after that step, and sees that the next start works. */
  async inject({ path, step, victim }: Fault): Promise<void> {
    const struck = Promise.withResolvers<void>();
    this.#onStopped = async (stopped) => {
      if (stopped.step !== step) return;
      this.#onStopped = undefined;
      try {
        await this.#strike(victim, stopped);
        struck.resolve();
      } catch (error) {
        struck.reject(error);
      }
    };
    const family = descendantsOf(this.host.pid).map(({ pid }) => pid);
    // It may fail or not: somebody else may take the part of whoever is gone.
    const call = this.host.call(path).catch(() => undefined);
    await Promise.race([struck.promise, failAfter(20_000, `no start came to "${step}"`)]);
    if (victim === 'controller') {
      await this.host.kill();
      await waitFor('all processes of the killed host end', () => !family.some(isRunning));
      await this.#start();
    } else
      await Promise.race([call, failAfter(20_000, `the call stopped at "${step}" got no answer`)]);
    await this.#assertCalls(path);
    await this.#settle();
  }

  /** Stops the host. */
  async assertNothingLeft(): Promise<void> {
    await this.host.stop();
    this.#host = undefined;
    await this.#named.assertNothingLeft();
    await assertNetworkUntouched();
  }

  /** What the host holds: it must not grow with the faults it has seen. */
  holdings(): { descriptors: number; mounts: number } {
    const proc = `/proc/${this.host.pid}`;
    return {
      descriptors: readdirSync(`${proc}/fd`).length,
      mounts: readFileSync(`${proc}/mountinfo`, 'latin1').split('\n').length,
    };
  }

  /** By a firewall that is nftables. */
  assertNobodyAdmitted(): void {
    const table = execFileSync('nft', ['list', 'table', 'inet', 'hatch0'], { encoding: 'utf8' });
    assert.match(table, /map admitted4/);
    assert.doesNotMatch(table, /elements/);
  }

  /** At any time: also while a host starts, or has stopped itself. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending = true;
    await this.#starting?.catch(() => undefined);
    await this.#host?.stop();
    this.#closed = true;
    await this.#driver;
    await rm(this.#imageDirectory, { recursive: true, force: true });
  }

  async #start(): Promise<TestHost> {
    if (this.#ending) throw new Error('The faults are over');
    const hook = pathToFileURL(join(import.meta.dirname, 'stop-at-steps.ts')).href;
    this.#starting = startHost({
      config: this.#host?.config ?? this.#named.config,
      environment: { NODE_OPTIONS: `--import=${hook}` },
    });
    return (this.#host = await this.#starting);
  }

  async #assertCalls(name: string): Promise<void> {
    const reply = await this.host.call(name);
    assert.equal(reply.error, undefined, reply.error?.message);
    assert.equal(reply.json<number>(), 1);
  }

  /** No container is left, and the next one is forked from a zygote that lives. */
  async #settle(): Promise<void> {
    await waitFor('nothing but blank pairs', () => {
      const inits = descendantsOf(this.host.pid).filter(({ pid }) => innerPid(pid) === 1);
      return inits.length === blankPairs && this.#containerProcesses().length === 0;
    });
  }

  async #strike(victim: Victim, stopped: Stopped): Promise<void> {
    const pid = await this.#find(victim, stopped);
    // With their parent gone they are nobody's descendants any more.
    this.#noteFamily();
    process.kill(pid, 'SIGKILL');
    resume(stopped.pid);
  }

  async #find(victim: Victim, stopped: Stopped): Promise<number> {
    if (victim === 'controller') return this.host.pid;
    let found: number | undefined;
    await waitFor(`${victim} at step "${stopped.step}"`, () => {
      const init = this.#containerProcesses().find((pid) => innerPid(pid) === 1);
      if (init === undefined) return false;
      if (victim === 'PID 1') found = init;
      else if (victim === 'zygote') found = parentOf(init);
      else found = descendantsOf(init)[0]?.pid;
      return found !== undefined;
    });
    return found ?? 0;
  }

  /** Those in a group of the host, and those in the pid namespace of one that has stopped. */
  #containerProcesses(): number[] {
    const outside = pidNamespaceOf(process.pid);
    const all = descendantsOf(this.host.pid).map(({ pid }) => pid);
    const stopped = all.filter((pid) => typeof stoppedProcess(pid) !== 'string');
    const stoppedIn = new Set(stopped.map(pidNamespaceOf));
    return all.filter((pid) => {
      const namespace = pidNamespaceOf(pid);
      if (namespace === undefined || namespace === outside) return false;
      return stoppedIn.has(namespace) || groupsOf(pid).includes(`/${this.host.cgroupParent}/`);
    });
  }

  #noteFamily(): void {
    const host = this.#host;
    if (host === undefined) return;
    for (const { pid } of [host, ...descendantsOf(host.pid)]) this.#known.add(pid);
  }

  /** Lets go on whoever has stopped, after the one that waits for this has had a look. */
  async #drive(): Promise<void> {
    while (!this.#closed) {
      this.#noteFamily();
      for (const pid of this.#known) {
        const stopped = stoppedProcess(pid);
        if (stopped === 'gone') this.#known.delete(pid);
        if (typeof stopped === 'string') continue;
        await this.#onStopped?.(stopped);
        resume(pid);
      }
      await sleep(pollMs);
    }
  }
}

const manifestOf: Record<FaultPath, object> = {
  forked: {},
  booted: { isolation: 'exec' },
  connected: { network: { egress: ['443/tcp'] } },
};

function stoppedProcess(pid: number): Stopped | 'runs' | 'gone' {
  const stat = attempt(() => readFileSync(`/proc/${pid}/stat`, 'latin1'));
  if (stat === undefined) return 'gone';
  if (!stat.slice(stat.lastIndexOf(')')).startsWith(') T')) return 'runs';
  const command = attempt(() => readFileSync(`/proc/${pid}/cmdline`, 'latin1')) ?? '';
  const step = stepInTitle(command.replaceAll('\0', ' '));
  return step === undefined ? 'runs' : { pid, step };
}

function resume(pid: number): void {
  attempt(() => process.kill(pid, 'SIGCONT'));
}

function pidNamespaceOf(pid: number): string | undefined {
  return attempt(() => readlinkSync(`/proc/${pid}/ns/pid`));
}

function groupsOf(pid: number): string {
  return attempt(() => readFileSync(`/proc/${pid}/cgroup`, 'latin1')) ?? '';
}

function innerPid(pid: number): number | undefined {
  const status = attempt(() => readFileSync(`/proc/${pid}/status`, 'latin1')) ?? '';
  return Number(/^NSpid:\t(.*)$/m.exec(status)?.[1]?.split('\t').at(-1));
}

/** Processes end while one looks at them. */
function attempt<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch {
    return undefined;
  }
}

async function failAfter(timeoutMs: number, what: string): Promise<never> {
  await sleep(timeoutMs * slowness, undefined, { ref: false });
  throw new Error(what);
}
