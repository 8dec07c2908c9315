/**
 * Kills what takes part in a start, after each of its steps, or before and after something is made
 * ahead for one. The host and its containers are made to stop themselves there (stop-at-steps.ts);
 * who drives them looks on, kills the victim, and lets the others go on.
 *
 * Leaves the machine's network, and adopts what its descendants leave behind: both for good.
 *
 *     await using faults = await StartFaults.open();
 *     await faults.inject({ path: 'forked', step: 'rootfs', victim: 'zygote' });
 *     await faults.assertNothingLeft();
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { reapChild } from '../../host/sys/fork.ts';
import { adoptOrphans } from '../../host/sys/process.ts';
import { buildImage } from '../../images/build.ts';
import { readRecipe } from '../../images/recipe.ts';
import { DiskImage } from './disk-image.ts';
import {
  kinds,
  type Fault,
  type FaultPath,
  type HostKind,
  type Kind,
  type Victim,
} from './fault-points.ts';
import { isHost, startHost, TestHost, type StartHostOptions } from './host.ts';
import { descendantsOf, isRunning, parentOf, waitFor, zygotePid } from './host-processes.ts';
import { nameHost, type NamedHost } from './named-host.ts';
import { slowness } from './slowness.ts';
import type { StockStep } from './step-title.ts';
import {
  endedChildrenOf,
  groupsOf,
  innerPid,
  pidNamespaceOf,
  resume,
  stoppedProcess,
  type Stopped,
} from './stopped-processes.ts';
import { assertNetworkUntouched, leaveMachineNetwork } from './test-network.ts';

const repository = resolve(import.meta.dirname, '../..');
const pollMs = 2;
const blankPairs = 2;

export class StartFaults {
  readonly #named: NamedHost;
  readonly #kind: HostKind;
  /** What is to be undone besides. */
  readonly #opened: AsyncDisposableStack;
  /** Who may have stopped, and has to be told to go on. */
  readonly #known = new Set<number>();
  #host: TestHost | undefined;
  #driver: Promise<void> | undefined;
  #closed = false;
  #ending = false;
  #starting: Promise<TestHost> | undefined;
  #onStopped: ((stopped: Stopped) => Promise<void>) | undefined;

  static async open(kind: Kind = 'plain'): Promise<StartFaults> {
    leaveMachineNetwork();
    // Or one that is forked while its parent is killed, and stops itself, could not be found.
    adoptOrphans();
    const { parked, filesystem, paths } = kinds[kind];
    await using opened = new AsyncDisposableStack();
    const imageDirectory = await mkdtemp(join(tmpdir(), 'hatch-faults-'));
    opened.defer(() => rm(imageDirectory, { recursive: true, force: true }));
    await buildImage({
      recipe: await readRecipe('node24'),
      outputDirectory: join(imageDirectory, 'image'),
      cacheDirectory: join(repository, '.cache', 'build'),
      runtimeEntry: join(repository, 'test', 'functions', 'stopping-runtime.ts'),
    });
    const named = await nameHost({
      parked,
      baseImageDirectory: join(imageDirectory, 'image'),
      firewall: 'nftables',
    });
    if (filesystem !== undefined) {
      const disk = opened.use(new DiskImage(filesystem));
      await rm(named.config.stateDirectory ?? '', { recursive: true });
      named.config.stateDirectory = join(disk.mountPoint, 'state');
    }
    const faults = new StartFaults(named, kinds[kind], opened.move());
    faults.#driver = faults.#drive();
    try {
      const host = await faults.#start();
      const source = 'let calls = 0; export const handler = () => (calls += 1);';
      for (const path of paths)
        await host.deploy({
          manifest: { name: nameOf(path), reuse: 'never', keepAliveMs: 0, ...manifestOf(path) },
          'handler.ts': source,
        });
      for (const path of paths) await faults.#assertCalls(path);
      await faults.#settle();
    } catch (error) {
      await faults[Symbol.asyncDispose]();
      throw error;
    }
    return faults;
  }

  private constructor(named: NamedHost, kind: HostKind, opened: AsyncDisposableStack) {
    this.#named = named;
    this.#kind = kind;
    this.#opened = opened;
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
    const call = this.host.call(nameOf(path)).catch(() => undefined);
    await Promise.race([struck.promise, failAfter(20_000, `no start came to "${step}"`)]);
    if (victim === 'controller') {
      await this.host.kill();
      await waitFor('all processes of the killed host end', () => !family.some(isRunning));
      await this.#start();
    } else {
      const reply = await Promise.race([
        call,
        failAfter(20_000, `the call stopped at "${step}" got no answer`),
      ]);
      assert.ok(reply !== undefined, 'the call was neither answered nor refused');
      assert.notEqual(reply.error?.code, 'internal.bug', reply.error?.message);
    }
    await this.#assertCalls(path);
    await this.#settle();
  }

  /** Kills hosts while they start, one after the other, each at such a step; the last one lives. */
  async injectAtStart(steps: readonly StockStep[]): Promise<void> {
    for (const step of steps) {
      const family = descendantsOf(this.host.pid).map(({ pid }) => pid);
      await this.host.kill();
      await waitFor('all processes of the killed host end', () => !family.some(isRunning));
      const struck = Promise.withResolvers<void>();
      this.#onStopped = (stopped) => {
        if (stopped.step === step) {
          this.#onStopped = undefined;
          process.kill(stopped.pid, 'SIGKILL');
          struck.resolve();
        }
        return Promise.resolve();
      };
      this.#host = await TestHost.launch(this.#options());
      await Promise.race([struck.promise, failAfter(60_000, `no host came to "${step}"`)]);
    }
    const family = descendantsOf(this.host.pid).map(({ pid }) => pid);
    await this.host.kill();
    await waitFor('all processes of the killed host end', () => !family.some(isRunning));
    await this.#start();
    for (const path of this.#kind.paths) await this.#assertCalls(path);
    await this.#settle();
  }

  /** Kills who takes part in a container that is parked and waits; the next call is answered. */
  async injectParked(victim: Victim): Promise<void> {
    const [path] = this.#kind.paths;
    assert.ok(path !== undefined && this.#kind.parked > 0);
    const family = descendantsOf(this.host.pid).map(({ pid }) => pid);
    const pid = await this.#find(victim, 'waiting');
    process.kill(pid, 'SIGKILL');
    if (victim === 'controller') {
      await this.host.kill();
      await waitFor('all processes of the killed host end', () => !family.some(isRunning));
      await this.#start();
    }
    const reply = await this.host.call(nameOf(path));
    assert.notEqual(reply.error?.code, 'internal.bug', reply.error?.message);
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

  /** What the host holds, and what is made of its name: neither must grow with the faults. */
  holdings(): Record<'descriptors' | 'mounts' | 'groups' | 'links' | 'snapshots', number> {
    const proc = `/proc/${this.host.pid}`;
    const { cgroupParent, stateDirectory } = this.host;
    const snapshots = join(stateDirectory, 'btrfs', 'roots');
    const groups = ['/sys/fs/cgroup', '-type', 'd', '-path', `*/${cgroupParent}/*`];
    return {
      descriptors: readdirSync(`${proc}/fd`).length,
      mounts: linesOf(readFileSync(`${proc}/mountinfo`, 'latin1')),
      groups: linesOf(execFileSync('find', groups, { encoding: 'utf8' })),
      // The network namespace is the test's own.
      links: linesOf(execFileSync('ip', ['-o', 'link'], { encoding: 'utf8' })),
      snapshots: this.#kind.filesystem === 'btrfs' ? readdirSync(snapshots).length : 0,
    };
  }

  /** By a firewall that is nftables; a container is dismissed when its processes have ended. */
  async assertNobodyAdmitted(): Promise<void> {
    if (!this.#kind.paths.some((path) => path.endsWith('connected'))) return;
    let table = '';
    await waitFor('nobody is admitted', () => {
      table = execFileSync('nft', ['list', 'table', 'inet', 'hatch0'], { encoding: 'utf8' });
      return !table.includes('elements');
    });
    assert.match(table, /map admitted4/);
  }

  /** At any time: also while a host starts, or has stopped itself. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending = true;
    await this.#starting?.catch(() => undefined);
    await this.#host?.stop();
    this.#closed = true;
    await this.#driver;
    await this.#opened.disposeAsync();
  }

  async #start(): Promise<TestHost> {
    if (this.#ending) throw new Error('The faults are over');
    this.#starting = startHost(this.#options());
    return (this.#host = await this.#starting);
  }

  #options(): StartHostOptions {
    const hook = pathToFileURL(join(import.meta.dirname, 'stop-at-steps.ts')).href;
    return {
      config: this.#host?.config ?? this.#named.config,
      environment: { NODE_OPTIONS: `--import=${hook}` },
    };
  }

  async #assertCalls(path: FaultPath): Promise<void> {
    const reply = await this.host.call(nameOf(path));
    assert.equal(reply.error, undefined, reply.error?.message);
    assert.equal(reply.json<number>(), 1);
  }

  /** No container is left but what is parked; the next is forked from a zygote that lives. */
  async #settle(): Promise<void> {
    const { parked } = this.#kind;
    const wanted = { blanks: blankPairs, inits: blankPairs + parked, inContainers: 2 * parked };
    let found = { ...wanted, blanks: NaN };
    await waitFor('nothing but blank pairs and what is parked', () => {
      const inContainers = this.#containerProcesses();
      const isBlank = ({ pid }: { pid: number }): boolean =>
        innerPid(pid) === 1 && !inContainers.includes(pid);
      found = {
        blanks: descendantsOf(this.host.pid).filter(isBlank).length,
        // A container outlives its zygote, a blank pair does not.
        inits: [...this.#known].filter((pid) => innerPid(pid) === 1).length,
        inContainers: inContainers.length,
      };
      return isDeepStrictEqual(found, wanted);
    }).catch(() => assert.deepEqual(found, wanted));
  }

  async #strike(victim: Victim, stopped: Stopped): Promise<void> {
    const pid = await this.#find(victim, `at step "${stopped.step}"`);
    process.kill(pid, 'SIGKILL');
    resume(stopped.pid);
  }

  async #find(victim: Victim, when: string): Promise<number> {
    if (victim === 'controller') return this.host.pid;
    let found: number | undefined;
    await waitFor(`${victim} ${when}`, () => {
      const init = this.#containerProcesses().find((pid) => innerPid(pid) === 1);
      if (victim === 'zygote') found = this.#zygoteOf(init);
      else if (victim === 'PID 1') found = init;
      else found = init === undefined ? undefined : descendantsOf(init)[0]?.pid;
      return found !== undefined;
    });
    return found ?? assert.fail(`no ${victim}`);
  }

  /** The one that forked it; when that one is gone, or there is no container, one that lives. */
  #zygoteOf(init: number | undefined): number | undefined {
    const own = descendantsOf(this.host.pid).map(({ pid }) => pid);
    const parent = init === undefined ? undefined : parentOf(init);
    // Who has lost its parent is the child of this process.
    if (parent !== undefined && own.includes(parent)) return parent;
    return zygotePid(this.host);
  }

  /** Those in a group of the host, and those in the pid namespace of one that has stopped. */
  #containerProcesses(): number[] {
    const outside = pidNamespaceOf(process.pid);
    const all = [...this.#known].filter((pid) => stoppedProcess(pid) !== 'gone');
    const stopped = all.filter((pid) => typeof stoppedProcess(pid) !== 'string');
    const stoppedIn = new Set(stopped.map(pidNamespaceOf));
    return all.filter((pid) => {
      const namespace = pidNamespaceOf(pid);
      if (namespace === undefined || namespace === outside) return false;
      return stoppedIn.has(namespace) || groupsOf(pid).includes(`/${this.host.cgroupParent}/`);
    });
  }

  /** Of hosts that start, too. */
  #noteFamily(): void {
    for (const { pid } of descendantsOf(process.pid)) this.#known.add(pid);
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
      // Node waits for the hosts, but not for what it has not started.
      for (const pid of endedChildrenOf(process.pid)) if (!isHost(pid)) reapChild(pid);
      await sleep(pollMs);
    }
  }
}

function linesOf(text: string): number {
  return text.split('\n').length;
}

function nameOf(path: FaultPath): string {
  return path.replace(' ', '-');
}

function manifestOf(path: FaultPath): object {
  if (path === 'booted') return { isolation: 'exec' };
  return path.endsWith('connected') ? { network: { egress: ['443/tcp'] } } : {};
}

async function failAfter(timeoutMs: number, what: string): Promise<never> {
  await sleep(timeoutMs * slowness, undefined, { ref: false });
  throw new Error(what);
}
