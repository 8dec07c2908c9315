/** Starts instances that are plain objects, for the tests of the pool that keeps them. */
import { setImmediate as turn } from 'node:timers/promises';
import { after } from 'node:test';
import type { HatchError } from '../../host/base/errors.ts';
import type { Acquired } from '../../host/pool/function-pool.ts';
import type { StartOrder } from '../../host/pool/instance-starter.ts';
import type { Instance } from '../../host/pool/instance.ts';
import { Pool, type PoolOptions, type Starter } from '../../host/pool/pool.ts';
import type { ParkedWish } from '../../host/pool/parked-containers.ts';
import type { PoolFunction } from '../../host/pool/pool-function.ts';
import { fakeInstance, sandboxOf } from './fake-sandbox.ts';

export class FakeStarter implements Starter {
  readonly started: Instance[] = [];
  readonly orders: StartOrder[] = [];
  startsAtOnce = 0;
  parkedTarget = 0;
  refillsPerSecond = 0;
  /** Consulted before each start. */
  outcome: () => HatchError | undefined = () => undefined;
  /** What an instance of that function takes. */
  memoryBytes: (fn: PoolFunction) => number = () => 2 ** 20;
  /** What a start takes besides the instance, and what zygotes take by now. */
  missingBytes: (fn: PoolFunction) => number = () => 0;
  zygoteBytes = 0;
  endUnusedZygotes = (): void => undefined;
  #starting = 0;

  readonly parked = {
    count: 0,
    some: undefined as { memoryInUse(): number; memoryPaidByHost(): Promise<number> } | undefined,
    fill: async () => undefined,
    hold: () => undefined,
    setTargets: (wishes: readonly ParkedWish[]) => {
      this.parkedTarget = wishes.reduce((sum, { count }) => sum + count, 0);
    },
    setRate: (perSecond: number) => {
      this.refillsPerSecond = perSecond;
    },
  };

  get alive(): Instance[] {
    return this.started.filter(({ sandbox }) => sandbox.alive);
  }

  async start(fn: PoolFunction, order: StartOrder): Promise<Instance> {
    this.orders.push(order);
    this.startsAtOnce = Math.max(this.startsAtOnce, ++this.#starting);
    await turn();
    this.#starting--;
    const failure = this.outcome();
    if (failure !== undefined) throw failure;
    const instance = fakeInstance(fn, `i${this.started.length}`);
    sandboxOf(instance).memoryBytes = this.memoryBytes(fn);
    this.started.push(instance);
    return instance;
  }

  refused(): undefined {
    return undefined;
  }

  async close(reason: HatchError): Promise<void> {
    await Promise.all(this.started.map(({ sandbox }) => sandbox.destroy(reason)));
  }
}

/** Of a machine whose memory nobody uses. */
export const atEase = {
  cpuSome: 0,
  memorySome: 0,
  memoryFull: 0,
  memoryBytes: 2 ** 40,
  availableBytes: 2 ** 40,
};

type OpenPool = (options?: Partial<PoolOptions>) => { pool: Pool; starter: FakeStarter };

/** The pools are closed after the tests of the file. */
export function poolsForFile(): OpenPool {
  const pools: Pool[] = [];
  after(() => Promise.all(pools.map((pool) => pool.close())));
  const limits = { parked: 2, parkedMax: 0, instancesMax: 10, memoryBytesMax: 2 ** 40 };
  const freezing = { freezeIdleAfterMs: 'never' as const };
  const rates = { queueLengthMax: 100, refillsPerSecond: 100 };
  const told = { readPressure: () => atEase, onNotice: () => undefined };
  return (options = {}) => {
    const starter = new FakeStarter();
    const pool = new Pool({ ...limits, ...rates, ...freezing, ...told, ...options }, starter);
    pools.push(pool);
    return { pool, starter };
  };
}

export async function hold(pool: Pool, fn: PoolFunction): Promise<Acquired> {
  return pool.tryAcquire(fn) ?? (await pool.acquire(fn, { timeoutMs: 5000 }));
}
