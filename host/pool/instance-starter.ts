/** Makes an instance by the cheapest way there is: a parked container, else a new one. */
import { setTimeout as sleep } from 'node:timers/promises';
import { nowNs } from '../base/clock.ts';
import { channels, type StartPath, type StartRecord, type Step } from '../base/channels.ts';
import { cpuWeightMax } from '../cgroup/limits.ts';
import { HatchError, messageOf, toHatchError } from '../base/errors.ts';
import type { Isolation } from '../base/isolation.ts';
import { startsUnderWay } from '../base/starts-under-way.ts';
import { StepTimer } from '../base/step-timer.ts';
import type { NetworkAccess } from '../network/network.ts';
import type { Specialisation } from '../protocol/invoke.ts';
import type { Output } from '../sandbox/function-channel.ts';
import { Sandbox, type Assignment, type SandboxParts } from '../sandbox/sandbox.ts';
import type { TrustClass } from '../zygote/trust-class.ts';
import type { Zygotes } from '../zygote/zygotes.ts';
import { Instance } from './instance.ts';
import { ParkedContainers, type ParkedContainer } from './parked-containers.ts';
import { limitsOf, type FunctionSecrets, type PoolFunction } from './pool-function.ts';

/** By then a zygote's death is known, and requests wait for the next one. */
const retryMs = 100;
const lastWordsMax = 2000;
const startTimeoutMs = 30_000;
/** Most starts that go before others are over by then; loading slowly gains nothing more. */
const passesMs = 20;

export interface InstanceStarterOptions {
  parts: SandboxParts;
  zygotes: Pick<Zygotes, 'serving' | 'missingBytes' | 'memoryBytes' | 'endUnused' | 'onReplaced'>;
  refillsPerSecond: number;
  isolation: Isolation;
  /** What an instance with this egress list may reach. */
  connect: (egress: readonly string[]) => Promise<NetworkAccess>;
  onNotice: (message: string) => void;
}

interface Made {
  sandbox: Sandbox;
  path: StartPath;
}

export interface StartOrder {
  /** It goes before other functions' starts that are under way. */
  passes: boolean;
  /** No call waits for it: what is parked is left to those that one does. */
  ahead: boolean;
  /** What is being read for it meanwhile. */
  readAheadBytes: number;
}

export class InstanceStarter {
  readonly parked: ParkedContainers;
  readonly #options: InstanceStarterOptions;
  /** Where a container's output goes once it is an instance. */
  readonly #outputs = new Map<string, (output: Output) => void>();
  readonly #sandboxes = new Map<string, Sandbox>();
  readonly #making = new Set<Promise<Sandbox>>();
  #closedBy: HatchError | undefined;

  constructor(options: InstanceStarterOptions) {
    this.#options = options;
    this.parked = new ParkedContainers({
      make: (trust) => onceMore(() => this.#park(trust)),
      refillsPerSecond: options.refillsPerSecond,
      onError: options.onNotice,
    });
    options.zygotes.onReplaced = (key) => this.parked.renew(key);
  }

  /**
   * Rejects with `function.load_failed`, `host.start_failed`, `host.unsupported` or `host.busy`;
   * nothing is left then.
   */
  async start(fn: PoolFunction, order: StartOrder): Promise<Instance> {
    const request = { ...order, fn, startNs: nowNs() };
    startsUnderWay.begin();
    try {
      const network = await this.#connect(fn);
      return await onceMore(
        () => this.#start(request, network),
        async () => this.#start(request, await this.#connect(fn)),
      );
    } finally {
      startsUnderWay.end();
    }
  }

  /** Ends every container, whatever it is doing; resolves when all are gone. Then none is made. */
  async close(reason: HatchError): Promise<void> {
    this.#closedBy = reason;
    await this.parked.close();
    await Promise.allSettled(this.#making);
    await Promise.all([...this.#sandboxes.values()].map((sandbox) => sandbox.destroy(reason)));
  }

  async #connect({ egress }: PoolFunction): Promise<Network | undefined> {
    if (egress.length === 0) return undefined;
    const timer = new StepTimer();
    const access = await this.#options.connect(egress);
    timer.finish('egress');
    return { access, steps: timer.steps };
  }

  /** The network is released when the start fails. */
  async #start(request: StartRequest, network: Network | undefined): Promise<Instance> {
    try {
      return await this.#startIn(request, network);
    } catch (error) {
      network?.access.release();
      throw error;
    }
  }

  async #startIn(request: StartRequest, network: Network | undefined): Promise<Instance> {
    const { fn, startNs, readAheadBytes } = request;
    const mayTake = !request.ahead && (network === undefined || (await this.#parkedMayEnter(fn)));
    const parked = mayTake ? this.parked.take(fn) : undefined;
    const made = parked ?? (await this.#makeSandbox(fn, network?.access.namespaceFd));
    const { sandbox, path } = made;
    const early: Output[] = [];
    this.#outputs.set(sandbox.id, (output) => early.push(output));
    try {
      const specialisation = specialisationOf(fn, network?.access, made === parked);
      const access = network?.access;
      const steps = await this.#assign(sandbox, { ...request, specialisation, access });
      const connected = network?.steps ?? [];
      const before = parked === undefined ? await sandbox.parked() : [];
      const { isolation } = this.#options;
      const allSteps = [...connected, ...before, ...steps];
      const facts = { fn, sandbox, path, startNs, steps: allSteps, isolation, readAheadBytes };
      const startRecord = record(facts);
      const instance = new Instance({ fn, sandbox, startRecord });
      for (const output of early) instance.logOutput(output);
      this.#outputs.set(sandbox.id, (output) => instance.logOutput(output));
      if (channels.startEnd.hasSubscribers) channels.startEnd.publish(startRecord);
      fn.startReads?.ended(() => sandbox.cgroup.pids());
      return instance;
    } catch (error) {
      const failure = asLoadFailure(error, early);
      await sandbox.destroy(failure);
      throw failure;
    }
  }

  /** Executed ones cannot change their network namespace any more. */
  async #parkedMayEnter(fn: PoolFunction): Promise<boolean> {
    const { mode } = await this.#options.zygotes.serving(fn);
    return mode === 'fork';
  }

  /**
   * A call that was refused in one of these control groups: its container says so in its output.
   * Gives how many ms the answer is to wait; undefined when none of them is a container's.
   */
  refused(callName: string, groups: readonly string[]): number | undefined {
    for (const group of groups) {
      const sandbox = this.#sandboxes.get(group);
      if (sandbox !== undefined) return sandbox.refused(callName);
    }
    return undefined;
  }

  /** What a start of it takes besides the instance. */
  missingBytes(fn: PoolFunction): number {
    return this.#options.zygotes.missingBytes(fn);
  }

  /** What the zygotes of single tenants take. */
  get zygoteBytes(): number {
    return this.#options.zygotes.memoryBytes;
  }

  /** Ends the zygotes that none of these functions needs. */
  endUnusedZygotes(functions: Iterable<PoolFunction>): void {
    this.#options.zygotes.endUnused(functions);
  }

  /** What our own code says in it before it has a function can only be a reason why it failed. */
  async #park(trust: TrustClass): Promise<ParkedContainer> {
    const { sandbox } = await this.#makeSandbox(trust);
    let said = '';
    this.#outputs.set(sandbox.id, ({ text }) => {
      said = (said + text).slice(-lastWordsMax);
    });
    try {
      await sandbox.parked();
      return { sandbox, path: 'parked' };
    } catch (error) {
      if (said === '') throw error;
      throw new HatchError('host.start_failed', `${messageOf(error)}: ${said.trim()}`, {
        cause: error,
      });
    }
  }

  async #assign(sandbox: Sandbox, { fn, specialisation, access, passes }: Given): Promise<Step[]> {
    const limits = limitsOf(fn);
    const restore = (): void => {
      if (sandbox.alive) sandbox.cgroup.setLimits(limits);
    };
    const passesTimer = passes ? setTimeout(restore, passesMs) : undefined;
    const timer = setTimeout(() => {
      const message = `Function "${fn.name}" did not load within ${startTimeoutMs} ms`;
      void sandbox.destroy(new HatchError('function.load_failed', message));
    }, startTimeoutMs);
    try {
      const steps = await sandbox.assign({
        specialisation,
        layerNames: fn.layerDirectories,
        storage: fn.storage,
        limits: passes ? { ...limits, cpuWeight: cpuWeightMax } : limits,
        ...secretsOf(fn),
        ...(fn.volumes && { volumes: fn.volumes }),
        network: access,
      });
      if (passes) restore();
      return steps;
    } finally {
      clearTimeout(timer);
      clearTimeout(passesTimer);
    }
  }

  async #makeSandbox(trust: TrustClass, namespaceFd?: number): Promise<Made> {
    const zygote = await this.#options.zygotes.serving(trust);
    if (this.#closedBy !== undefined) throw this.#closedBy;
    const path = zygote.mode === 'fork' ? 'forked' : 'booted';
    const making = Sandbox.create(this.#options.parts, {
      spawn: (order) => zygote.spawn(order),
      onOutput: (id, output) => this.#outputs.get(id)?.(output),
      namespaceFd,
    });
    this.#making.add(making);
    try {
      const sandbox = await making;
      this.#sandboxes.set(sandbox.id, sandbox);
      void sandbox.ended.then(() => {
        this.#outputs.delete(sandbox.id);
        this.#sandboxes.delete(sandbox.id);
      });
      return { sandbox, path };
    } finally {
      this.#making.delete(making);
    }
  }
}

/** What died in the middle of a start, zygote or container, is no reason to fail. */
async function onceMore<T>(start: () => Promise<T>, again = start): Promise<T> {
  try {
    return await start();
  } catch (error) {
    if (toHatchError(error).code !== 'host.start_failed') throw error;
    await sleep(retryMs);
    return await again();
  }
}

/** What an instance may reach, and what it took to find out. */
interface Network {
  access: NetworkAccess;
  steps: Step[];
}

interface StartRequest extends StartOrder {
  fn: PoolFunction;
  /** Of its first try: what a second one takes is a part of it. */
  startNs: number;
}

interface Given extends StartRequest {
  specialisation: Specialisation;
  access: NetworkAccess | undefined;
}

/** `isParked`: the container was made before, in a network namespace of its own. */
function specialisationOf(
  fn: PoolFunction,
  access: NetworkAccess | undefined,
  isParked: boolean,
): Specialisation {
  return {
    functionName: fn.name,
    functionVersion: fn.version,
    entry: fn.entry,
    memoryMb: fn.memoryMb,
    seccomp: fn.seccomp,
    env: { HATCH_FUNCTION_NAME: fn.name, HATCH_FUNCTION_VERSION: fn.version, ...fn.env },
    ...(fn.secrets === undefined ? {} : { secretEnv: variablesOf(fn.secrets) }),
    ...(fn.volumes && { volumes: fn.volumes.map(({ path }) => path) }),
    ...(access && { network: networkOf(access, isParked) }),
  };
}

function networkOf(
  { hosts, resolvers, connectTcpPorts }: NetworkAccess,
  isSent: boolean,
): NonNullable<Specialisation['network']> {
  return { isSent, hosts, resolvers, ...(connectTcpPorts && { connectTcpPorts }) };
}

function variablesOf({ uses }: FunctionSecrets): string[] {
  return uses.filter(({ as }) => as === 'env').map(({ name }) => name);
}

function secretsOf({ secrets }: PoolFunction): Pick<Assignment, 'secrets'> {
  if (secrets === undefined) return {};
  return { secrets: secrets.uses.map(({ name }) => ({ name, value: secrets.read(name) })) };
}

function record(start: {
  fn: PoolFunction;
  sandbox: Sandbox;
  path: StartPath;
  startNs: number;
  steps: Step[];
  isolation: Isolation;
  readAheadBytes: number;
}): StartRecord {
  return {
    instanceId: start.sandbox.id,
    functionName: start.fn.name,
    functionVersion: start.fn.version,
    path: start.path,
    steps: start.steps,
    startNs: start.startNs,
    endNs: nowNs(),
    isolation: start.isolation,
    ...(start.readAheadBytes > 0 && { readAheadBytes: start.readAheadBytes }),
  };
}

/** A bundle that ends its process while it loads has failed to load, whatever way it took. */
function asLoadFailure(error: unknown, output: Output[]): HatchError {
  const failure = toHatchError(error, 'host.start_failed');
  if (failure.code !== 'function.exited') return failure;
  const said = output
    .map(({ text }) => text)
    .join('')
    .trim()
    .slice(-lastWordsMax);
  return new HatchError(
    'function.load_failed',
    `${failure.message} while it loaded${said === '' ? '' : `: ${said}`}`,
    { cause: error, details: failure.details },
  );
}
