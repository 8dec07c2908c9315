/**
 * Every container of the host: parked ones, instances by function, and who has to go when there is
 * no room. A call asks here for an instance and gives it back; the cheapest path is taken:
 * hot, then parked, then forked (or booted, where forking does not work).
 */
import type { StartRecord } from '../base/channels.ts';
import { HatchError } from '../base/errors.ts';
import type { SandboxParts } from '../sandbox/sandbox.ts';
import { FunctionPool, type Acquired } from './function-pool.ts';
import { InstanceStarter } from './instance-starter.ts';
import { Instance } from './instance.ts';
import { expired, victim, type IdleInstance } from './keep-alive.ts';
import { functionKey, type PoolFunction } from './pool-function.ts';

export interface PoolOptions {
  parts: SandboxParts;
  mode: () => 'fork' | 'exec';
  /** Containers to keep parked, besides what functions ask for. */
  parked: number;
  /** Of all functions together. */
  instancesMax: number;
  /** Calls that may wait for one version of a function. */
  queueLengthMax: number;
  /** Containers made ahead per second, at most. */
  refillsPerSecond: number;
  onNotice: (message: string) => void;
}

export interface InstanceStats {
  id: string;
  functionName: string;
  functionVersion: string;
  state: 'idle' | 'busy';
  /** Calls served so far. */
  calls: number;
}

export interface PoolStats {
  parked: number;
  waiting: number;
  instances: InstanceStats[];
}

/** How often idle instances are looked over. */
const sweepMs = 1000;
/** Instances that are being started at one time: the kernel makes namespaces one by one anyway. */
const startingMax = 16;

/** What makes the instances; a test brings its own. */
export type Starter = Pick<InstanceStarter, 'start' | 'close'> & {
  parked: Pick<InstanceStarter['parked'], 'count' | 'fill' | 'hold' | 'setTarget'>;
};

export class Pool {
  readonly #options: Omit<PoolOptions, 'parts' | 'mode'>;
  readonly #starter: Starter;
  readonly #functions = new Map<string, FunctionPool>();
  /** Taken from the map, with calls that still run. */
  readonly #retiring = new Set<FunctionPool>();
  readonly #poolOf = new WeakMap<Instance, FunctionPool>();
  readonly #sweep: NodeJS.Timeout;
  readonly #startQueue: (() => void)[] = [];
  #starting = 0;
  #live = 0;
  /** Somebody was refused for want of room, and waits for some. */
  #starved = false;
  #closed = false;

  static open(options: PoolOptions): Pool {
    return new Pool(options, new InstanceStarter(options));
  }

  constructor(options: Omit<PoolOptions, 'parts' | 'mode'>, starter: Starter) {
    this.#options = options;
    this.#starter = starter;
    this.#starter.parked.setTarget(options.parked);
    this.#sweep = setInterval(() => this.#endExpired(), sweepMs);
    this.#sweep.unref();
  }

  /** Resolves when the parked containers are there. */
  fill(): Promise<void> {
    return this.#starter.parked.fill();
  }

  /** An idle instance or a free slot of one, at once; undefined when there is none. */
  tryAcquire(fn: PoolFunction): Acquired | undefined {
    return this.#functions.get(functionKey(fn))?.tryAcquire();
  }

  /**
   * Waits in a bounded queue. Rejects with HatchError `host.busy`, `host.start_failed` or
   * `function.load_failed`.
   */
  acquire(fn: PoolFunction, options: { timeoutMs: number }): Promise<Acquired> {
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
    this.#setParkedTarget();
    await pool.retire();
    this.#retiring.delete(pool);
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
    const startInstance = async (): Promise<Instance> => {
      const instance = await this.#startInstance(fn);
      this.#poolOf.set(instance, pool);
      return instance;
    };
    const pool: FunctionPool = new FunctionPool(
      fn,
      { startInstance, onRoom: () => this.#onRoom() },
      { queueLengthMax: this.#options.queueLengthMax },
    );
    this.#functions.set(key, pool);
    this.#setParkedTarget();
    return pool;
  }

  async #startInstance(fn: PoolFunction): Promise<Instance> {
    await this.#turn();
    try {
      if (this.#closed) throw new HatchError('host.draining', 'The host is stopping');
      await this.#takeRoom();
      try {
        const instance = await this.#starter.start(fn);
        void instance.sandbox.ended.then(() => this.#live--);
        return instance;
      } catch (error) {
        this.#live--;
        // The room it had is free again; had it found none, there would be no use in a new try.
        if (!isBusy(error)) this.#onRoom();
        throw error;
      }
    } catch (error) {
      this.#starved ||= isBusy(error);
      throw error;
    } finally {
      this.#starting--;
      this.#startQueue.shift()?.();
      this.#starter.parked.hold(this.#starting > 0);
    }
  }

  async #turn(): Promise<void> {
    if (this.#starting >= startingMax)
      await new Promise<void>((resolve) => this.#startQueue.push(resolve));
    this.#starting++;
    this.#starter.parked.hold(true);
  }

  /** At the host's limit somebody idle goes, whoever's it is; never anybody busy. */
  async #takeRoom(): Promise<void> {
    while (this.#live >= this.#options.instancesMax) {
      const id = victim(this.#idleInstances());
      if (id === undefined)
        throw new HatchError('host.busy', `All ${this.#live} instances of the host are busy`);
      await this.#destroy(id);
    }
    // At once after the look: whoever else waited for the same room must see it taken.
    this.#live++;
  }

  #onRoom(): void {
    if (this.#closed || !this.#starved) return;
    this.#starved = false;
    for (const pool of this.#allPools()) if (pool.waiting > 0) pool.startAsNeeded();
  }

  #endExpired(): void {
    for (const id of expired(this.#idleInstances())) void this.#destroy(id);
  }

  #idleInstances(): IdleInstance[] {
    const now = performance.now();
    return this.#allInstances()
      .filter((instance) => instance.idle && instance.sandbox.alive)
      .map(({ id, idleSinceMs, fn }) => ({
        id,
        idleMs: now - idleSinceMs,
        keepAliveMs: fn.keepAliveMs,
      }));
  }

  async #destroy(id: string): Promise<void> {
    await this.#allInstances()
      .find((instance) => instance.id === id)
      ?.sandbox.destroy();
  }

  #allInstances(): Instance[] {
    return this.#allPools().flatMap((pool) => [...pool.instances]);
  }

  #allPools(): FunctionPool[] {
    return [...this.#functions.values(), ...this.#retiring];
  }

  #setParkedTarget(): void {
    const asked = [...this.#functions.values()].reduce((sum, { fn }) => sum + fn.parked, 0);
    this.#starter.parked.setTarget(this.#options.parked + asked);
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
    state: instance.idle ? 'idle' : 'busy',
    calls: instance.served,
  };
}
