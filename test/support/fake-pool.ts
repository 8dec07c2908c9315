/** A pool of instances that are plain functions, for the tests of what stands above the pool. */
import { isolationHere } from '../../host/security/isolation.ts';
import { HatchError } from '../../host/base/errors.ts';
import type { CopyUp, StartRecord } from '../../host/base/channels.ts';
import type { CallRequest } from '../../host/pool/instance.ts';
import type { CallResult } from '../../host/sandbox/function-channel.ts';
import type {
  Acquired,
  Instance,
  InstancePool,
  PoolStats,
} from '../../host/dispatch/instance-pool.ts';
import type { PoolFunction } from '../../host/pool/pool-function.ts';

export type Handler = (request: CallRequest, fn: PoolFunction) => Promise<CallResult> | CallResult;

export function poolFunction(name: string, changes: Partial<PoolFunction> = {}): PoolFunction {
  return {
    name,
    version: '1',
    entry: '/function/index.cjs',
    layerDirectories: [],
    storage: undefined,
    memoryMb: 128,
    cpu: 1,
    cpuBurst: 0,
    cpuWeight: 100,
    pidsMax: 64,
    seccomp: 'node',
    timeoutMs: 5000,
    graceMs: 250,
    concurrency: 1,
    instancesMax: 4,
    keepAlive: { policy: 'fixed', keepMs: 1000 },
    freezeIdleAfterMs: undefined,
    parked: 0,
    egress: [],
    reuse: 'same-function',
    tenant: 'default',
    isolation: 'fork',
    env: {},
    ...changes,
  };
}

export class FakeInstance implements Instance {
  readonly id: string;
  readonly fn: PoolFunction;
  calls = 0;
  /** What the next look finds. */
  copied: CopyUp[] = [];
  readonly #handler: Handler;
  readonly #calls = new Map<string, (reason: HatchError) => void>();

  constructor(id: string, fn: PoolFunction, handler: Handler) {
    this.id = id;
    this.fn = fn;
    this.#handler = handler;
  }

  async call(request: CallRequest): Promise<CallResult> {
    this.calls += 1;
    const cancelled = Promise.withResolvers<never>();
    this.#calls.set(request.requestId, cancelled.reject);
    const result = Promise.resolve(this.#handler(request, this.fn));
    return await Promise.race([result, cancelled.promise]);
  }

  cancel(requestId: string, reason: HatchError): void {
    this.#calls.get(requestId)?.(reason);
  }

  copyUps(): Promise<CopyUp[]> {
    return Promise.resolve(this.copied.splice(0));
  }
}

/** Starts at most `instancesMax` instances of a version and has no queue: then it is busy. */
export class FakePool implements InstancePool {
  readonly handlers = new Map<string, Handler>();
  readonly instances: FakeInstance[] = [];
  readonly retired: string[] = [];
  readonly released: Acquired[] = [];
  /** Thrown by `prepare` of that `name@version`. */
  readonly broken = new Map<string, HatchError>();
  #idle: FakeInstance[] = [];
  #count = 0;

  tryAcquire(fn: PoolFunction): Acquired | undefined {
    const at = this.#idle.findIndex((one) => sameVersion(one.fn, fn));
    const instance = at === -1 ? undefined : this.#idle.splice(at, 1)[0];
    return instance && { instance, start: 'hot', startRecord: undefined };
  }

  acquire(fn: PoolFunction): Promise<Acquired> {
    if (this.instances.filter((one) => sameVersion(one.fn, fn)).length >= fn.instancesMax) {
      const details = { retryAfterMs: 7 };
      return Promise.reject(new HatchError('host.busy', 'Cannot call: queue full', { details }));
    }
    const { instance, startRecord } = this.#start(fn);
    return Promise.resolve({ instance, start: 'parked' as const, startRecord });
  }

  release(acquired: Acquired): void {
    this.released.push(acquired);
    const instance = this.instances.find((one) => one === acquired.instance);
    if (instance !== undefined) this.#idle.push(instance);
  }

  prepare(fn: PoolFunction): Promise<StartRecord> {
    const broken = this.broken.get(`${fn.name}@${fn.version}`);
    if (broken !== undefined) return Promise.reject(broken);
    const { instance, startRecord } = this.#start(fn);
    this.#idle.push(instance);
    return Promise.resolve(startRecord);
  }

  retire(fn: { name: string; version: string }): Promise<void> {
    this.retired.push(`${fn.name}@${fn.version}`);
    this.#idle = this.#idle.filter((one) => !sameVersion(one.fn, fn));
    const left = this.instances.filter((one) => !sameVersion(one.fn, fn));
    this.instances.splice(0, Infinity, ...left);
    return Promise.resolve();
  }

  #start(fn: PoolFunction): { instance: FakeInstance; startRecord: StartRecord } {
    const id = `i${(this.#count += 1)}`;
    const instance = new FakeInstance(id, fn, this.handlers.get(fn.name) ?? echo);
    this.instances.push(instance);
    const startRecord: StartRecord = {
      instanceId: id,
      functionName: fn.name,
      functionVersion: fn.version,
      path: 'parked',
      steps: [],
      startNs: 1e6,
      endNs: 3e6,
      isolation: isolationHere(),
    };
    return { instance, startRecord };
  }

  stats(): PoolStats {
    return {
      parked: 0,
      instances: this.instances.map(({ id, fn, calls }) => ({
        id,
        functionName: fn.name,
        functionVersion: fn.version,
        state: 'idle',
        calls,
      })),
    };
  }
}

export function echo(request: CallRequest): CallResult {
  return { payload: request.payload, encoding: 'bytes' };
}

function sameVersion(
  one: { name: string; version: string },
  other: { name: string; version: string },
): boolean {
  return one.name === other.name && one.version === other.version;
}
