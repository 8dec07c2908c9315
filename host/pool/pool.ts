/**
 * Every container of the host: parked ones, instances by function, and who has to go when there is
 * no room. A call asks here for an instance and gives it back; the cheapest path is taken:
 * hot, then parked, then forked (or booted, where forking does not work).
 */
import { availableParallelism } from 'node:os';
import type { StartRecord } from '../base/channels.ts';
import { nsPerMs } from '../base/clock.ts';
import { HatchError, messageOf } from '../base/errors.ts';
import type { Isolation } from '../base/isolation.ts';
import type { MachinePressure } from '../cgroup/pressure.ts';
import type { Sandbox, SandboxParts } from '../sandbox/sandbox.ts';
import {
  FunctionPool,
  type Acquired,
  type AcquireOptions,
  type StartCause,
} from './function-pool.ts';
import type { FunctionProfile } from './function-profile.ts';
import { InstanceStarter, type InstanceStarterOptions } from './instance-starter.ts';
import { Instance } from './instance.ts';
import { ParkedTargets, type ParkedLimits } from './parked-targets.ts';
import { respondTo } from './policy/pressure.ts';
import { functionKey, type PoolFunction } from './pool-function.ts';
import { Room } from './room.ts';
import { StartQueue } from './start-queue.ts';

export interface PoolLimits extends ParkedLimits {
  /** Of all functions together, as measured. */
  memoryBytesMax: number;
  /** Of all functions together. */
  instancesMax: number;
  /** For functions that do not say themselves; looked at once a second. */
  freezeIdleAfterMs: number | 'never';
  /** Calls that may wait for one version of a function. */
  queueLengthMax: number;
  /** Containers made ahead per second, at most. */
  refillsPerSecond: number;
}

export interface PoolOptions extends PoolLimits {
  parts: SandboxParts;
  zygotes: InstanceStarterOptions['zygotes'];
  isolation: Isolation;
  connect: InstanceStarterOptions['connect'];
  readPressure: () => MachinePressure;
  onNotice: (message: string) => void;
}

export interface InstanceStats {
  id: string;
  functionName: string;
  functionVersion: string;
  state: 'idle' | 'frozen' | 'busy';
  /** Calls served so far. */
  calls: number;
}

export interface PoolStats {
  parked: number;
  waiting: number;
  instances: InstanceStats[];
}

/** How often keep-alive, memory and what is parked are looked over. */
const sweepMs = 1000;
/**
 * More at one time are no faster: the zygote and this process do half of each, one by one. A burst
 * of 50 took as long with 1 as with 16 on two cores.
 */
const startsAtOnceMax = Math.min(Math.max(availableParallelism(), 2), 16);
const startsAtOnce = { max: startsAtOnceMax, maxQueued: startsAtOnceMax >> 1 };
const measureContainerMs = 60_000;

/** The others are the starter's. */
type OwnOptions = Omit<PoolOptions, 'parts' | 'zygotes' | 'isolation' | 'connect'>;

/** What makes the instances; a test brings its own. */
export type Starter = Pick<
  InstanceStarter,
  'start' | 'close' | 'refused' | 'missingBytes' | 'zygoteBytes' | 'endUnusedZygotes'
> & {
  parked: Pick<InstanceStarter['parked'], 'count' | 'fill' | 'hold' | 'setTargets' | 'setRate'> & {
    readonly some: Pick<Sandbox, 'memoryInUse' | 'memoryPaidByHost'> | undefined;
  };
};

export class Pool {
  readonly #options: OwnOptions;
  readonly #starter: Starter;
  readonly #functions = new Map<string, FunctionPool>();
  /** Taken from the map, with calls that still run. */
  readonly #retiring = new Set<FunctionPool>();
  readonly #poolOf = new WeakMap<Instance, FunctionPool>();
  readonly #room: Room;
  readonly #parkedTargets: ParkedTargets;
  /** While memory is short. */
  #parkedCountMax = Infinity;
  #measureContainerAtMs = 0;
  /** Functions that the last look started instances of. */
  readonly #prewarmedLast = new Set<FunctionPool>();
  readonly #sweep: NodeJS.Timeout;
  readonly #starts = new StartQueue(startsAtOnce);
  /** Somebody was refused for want of room, and waits for some. */
  #starved = false;
  #closed = false;

  static open(options: PoolOptions): Pool {
    return new Pool(options, new InstanceStarter(options));
  }

  constructor(options: OwnOptions, starter: Starter) {
    this.#options = options;
    this.#starter = starter;
    this.#room = new Room({ ...options, pools: () => this.#allPools() });
    this.#parkedTargets = new ParkedTargets(options);
    this.#setParkedTargets();
    this.#sweep = setInterval(() => this.#lookOver(), sweepMs);
    this.#sweep.unref();
  }

  /** Resolves when the parked containers are there, and it is known what one takes. */
  async fill(): Promise<void> {
    await this.#starter.parked.fill();
    await this.#measureContainer();
    this.#setParkedTargets();
  }

  /** An idle instance or a free slot of one, at once; undefined when there is none. */
  tryAcquire(fn: PoolFunction): Acquired | undefined {
    return this.#functions.get(functionKey(fn))?.tryAcquire();
  }

  /**
   * Waits in a bounded queue. Rejects with HatchError `host.busy`, `host.start_failed` or
   * `function.load_failed`, or with the signal's reason.
   */
  acquire(fn: PoolFunction, options: AcquireOptions): Promise<Acquired> {
    return this.#functionPool(fn).acquire(options);
  }

  release(acquired: Acquired): void {
    // By instance: its version may have been retired, and deployed again, since.
    this.#poolOf.get(acquired.instance)?.release(acquired);
  }

  /** Starts one instance and leaves it idle: the health check of a deploy. */
  async prepare(fn: PoolFunction): Promise<StartRecord> {
    const instance = await this.#functionPool(fn).prepare();
    return instance.startRecord;
  }

  /** Lets the calls of a version finish, then destroys its instances. */
  async retire(fn: { name: string; version: string }): Promise<void> {
    const key = functionKey(fn);
    const pool = this.#functions.get(key);
    if (pool === undefined) return;
    this.#functions.delete(key);
    this.#retiring.add(pool);
    this.#setParkedTargets();
    await pool.retire();
    this.#retiring.delete(pool);
  }

  /** See `InstanceStarter.refused`. */
  refused(callName: string, groups: readonly string[]): number | undefined {
    return this.#starter.refused(callName, groups);
  }

  /** Of the budget: what instances and parked containers take. */
  get memoryBytes(): number {
    return this.#room.usedBytes + this.#room.parkedBytes(this.#starter.parked.count);
  }

  /** The budget. */
  get memoryBytesMax(): number {
    return this.#options.memoryBytesMax;
  }

  stats(): PoolStats {
    const pools = this.#allPools();
    return {
      parked: this.#starter.parked.count,
      waiting: pools.reduce((sum, pool) => sum + pool.waiting, 0),
      instances: pools.flatMap((pool) => [...pool.instances].map(statsOf)),
    };
  }

  /** Ends every instance and every parked container. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#sweep);
    const reason = new HatchError('host.draining', 'The host is stopping');
    await Promise.all([
      this.#starter.close(reason),
      ...this.#allPools().map((pool) => pool.close(reason)),
    ]);
  }

  #functionPool(fn: PoolFunction): FunctionPool {
    if (this.#closed) throw new HatchError('host.draining', 'The host is stopping');
    const key = functionKey(fn);
    const known = this.#functions.get(key);
    if (known !== undefined) return known;
    const startInstance = async (
      profile: FunctionProfile,
      cause: StartCause,
    ): Promise<Instance> => {
      const instance = await this.#startInstance(fn, profile, cause);
      this.#poolOf.set(instance, pool);
      return instance;
    };
    const room = this.#room;
    const host = {
      startInstance,
      onRoom: () => this.#onRoom(),
      get clock() {
        return room.clock;
      },
    };
    const { queueLengthMax } = this.#options;
    const pool: FunctionPool = new FunctionPool(fn, host, { queueLengthMax });
    this.#functions.set(key, pool);
    this.#setParkedTargets();
    return pool;
  }

  async #startInstance(
    fn: PoolFunction,
    profile: FunctionProfile,
    cause: StartCause,
  ): Promise<Instance> {
    const readAheadBytes = fn.startReads?.begin() ?? 0;
    const { passes } = await this.#starts.turn(fn.name);
    this.#starter.parked.hold(true);
    try {
      if (this.#closed) throw new HatchError('host.draining', 'The host is stopping');
      // Nobody has to go for the sake of a call that may never come.
      const besidesBytes = this.#starter.missingBytes(fn);
      const evicts = cause !== 'expected';
      const grant = await this.#room.take(profile, { evicts, besidesBytes });
      if (cause !== 'expected') this.#parkedTargets.started(fn, performance.now());
      try {
        if (this.#starter.parked.count > this.#room.parkedMax) this.#setParkedTargets();
        const order = { passes, ahead: cause === 'expected', readAheadBytes };
        const instance = await this.#starter.start(fn, order);
        const { startNs, endNs } = instance.startRecord;
        profile.measuredStart((endNs - startNs) / nsPerMs);
        this.#room.settle(grant, instance);
        if (besidesBytes > 0) this.#room.reserve(this.#starter.zygoteBytes);
        return instance;
      } catch (error) {
        this.#room.free(grant);
        // The room it had is free again; had it found none, there would be no use in a new try.
        if (!isBusy(error)) this.#onRoom();
        throw error;
      }
    } catch (error) {
      this.#starved ||= isBusy(error) && cause !== 'expected';
      throw error;
    } finally {
      this.#starts.done(fn.name);
      this.#starter.parked.hold(!this.#starts.isEmpty);
    }
  }

  #onRoom(): void {
    if (this.#closed || !this.#starved) return;
    this.#starved = false;
    for (const pool of this.#allPools()) if (pool.waiting > 0) pool.startAsNeeded();
  }

  #lookOver(): void {
    const nowMs = performance.now();
    this.#starter.endUnusedZygotes([...this.#functions.values()].map(({ fn }) => fn));
    this.#room.reserve(this.#starter.zygoteBytes);
    this.#room.measure();
    if (nowMs >= this.#measureContainerAtMs) void this.#measureContainer();
    const { refillShare, idleShare } = respondTo(this.#options.readPressure());
    const startsPerSecond = this.#options.refillsPerSecond * refillShare;
    for (const pool of this.#functions.values()) {
      for (const { sandbox } of pool.surplus(nowMs)) void sandbox.destroy();
      this.#freezeIdle(pool, nowMs);
    }
    this.#prewarmInTurn(nowMs, startsPerSecond);
    void this.#room.giveBack(idleShare);
    const parkedLeft = Math.floor(this.#starter.parked.count * (1 - idleShare));
    this.#parkedCountMax = idleShare === 0 ? Infinity : parkedLeft;
    this.#starter.parked.setRate(startsPerSecond);
    this.#setParkedTargets();
    // What was measured may be less than what was charged.
    this.#onRoom();
  }

  /** One is as large as another, until the zygote they are forked from is replaced. */
  async #measureContainer(): Promise<void> {
    const waiting = this.#starter.parked.some;
    const [instance] = this.#allPools().flatMap((pool) => [...pool.instances]);
    const one = instance?.sandbox ?? waiting;
    if (one === undefined) return;
    this.#measureContainerAtMs = performance.now() + measureContainerMs;
    try {
      const paidByHost = await one.memoryPaidByHost();
      const parked = paidByHost + (waiting ?? one).memoryInUse();
      this.#room.containerBytes = { paidByHost, parked };
    } catch {
      // It was taken away meanwhile: the next one will do.
    }
  }

  #freezeIdle(pool: FunctionPool, nowMs: number): void {
    const afterMs = pool.fn.freezeIdleAfterMs ?? this.#options.freezeIdleAfterMs;
    if (afterMs === 'never') return;
    for (const instance of pool.idleInstances())
      if (nowMs - instance.idleSinceMs >= afterMs)
        instance.freeze().catch((error: unknown) => {
          if (instance.sandbox.alive) this.#options.onNotice(messageOf(error));
        });
  }

  /** One for each function at a time; those that are left over come first the next time. */
  #prewarmInTurn(nowMs: number, startsMax: number): void {
    let left = Math.floor(startsMax);
    const { prewarmed = [], others = [] } = Object.groupBy(this.#functions.values(), (pool) =>
      this.#prewarmedLast.has(pool) ? 'prewarmed' : 'others',
    );
    let turn = [...others, ...prewarmed];
    this.#prewarmedLast.clear();
    while (turn.length > 0) {
      turn = turn.filter((pool) => {
        if (left === 0 || !pool.takeMissing(nowMs)) return false;
        left--;
        this.#prewarmedLast.add(pool);
        void this.#prewarm(pool);
        return true;
      });
    }
  }

  async #prewarm(pool: FunctionPool): Promise<void> {
    try {
      await pool.prewarm();
    } catch (error) {
      if (isBusy(error) || this.#closed) return;
      this.#options.onNotice(`Cannot start "${pool.fn.name}" ahead: ${messageOf(error)}`);
    }
  }

  #allPools(): FunctionPool[] {
    return [...this.#functions.values(), ...this.#retiring];
  }

  #setParkedTargets(): void {
    const functions = [...this.#functions.values()].map(({ fn }) => fn);
    const roomFor = Math.min(this.#room.parkedMax, this.#parkedCountMax);
    const wishes = this.#parkedTargets.wishes(functions, performance.now(), roomFor);
    this.#starter.parked.setTargets(wishes);
  }
}

function isBusy(error: unknown): boolean {
  return error instanceof HatchError && error.code === 'host.busy';
}

function statsOf(instance: Instance): InstanceStats {
  return {
    id: instance.id,
    functionName: instance.fn.name,
    functionVersion: instance.fn.version,
    state: !instance.idle ? 'busy' : instance.sandbox.frozen ? 'frozen' : 'idle',
    calls: instance.served,
  };
}
