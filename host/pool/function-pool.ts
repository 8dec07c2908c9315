/**
 * The instances of one version of one function, and the calls that wait for one. A waiting call
 * takes whatever is ready first: a start that it caused, or an instance that another call gave
 * back.
 */
import type { StartPath, StartRecord } from '../base/channels.ts';
import { HatchError, toHatchError } from '../base/errors.ts';
import { FunctionProfile } from './function-profile.ts';
import { Instance } from './instance.ts';
import { slotsOf, type PoolFunction } from './pool-function.ts';

/** The right to make one call on an instance; it ends with `release`. */
export interface Acquired {
  instance: Instance;
  start: StartPath;
  /** Present when this acquire caused the start. */
  startRecord: StartRecord | undefined;
}

export interface AcquireOptions {
  timeoutMs: number;
  /** Aborted with a HatchError when nobody wants the call any more. */
  signal?: AbortSignal;
}

/** `expected`: keep-alive foresees a call. */
export type StartCause = 'call' | 'deploy' | 'expected';

/** What the pool of the whole host decides. */
export interface HostPool {
  /** Starts an instance, or rejects with `host.busy` when the host has no room for one. */
  startInstance(profile: FunctionProfile, cause: StartCause): Promise<Instance>;
  /** That of the policy of eviction. */
  readonly clock: number;
  /** An instance is gone, or one has become idle: somebody else may use the room. */
  onRoom(): void;
}

interface Waiter {
  resolve: (acquired: Acquired) => void;
  reject: (error: HatchError) => void;
  /** It has been taken from the queue: it no longer listens. */
  stop: () => void;
}

export class FunctionPool {
  readonly fn: PoolFunction;
  readonly profile: FunctionProfile;
  readonly #host: HostPool;
  readonly #queueLengthMax: number;
  readonly #instances = new Set<Instance>();
  /** Those with a free slot, the most recently used last: it is the one with warm caches. */
  readonly #available: Instance[] = [];
  readonly #waiters: Waiter[] = [];
  #starting = 0;
  #retired = false;
  readonly #onEmpty: (() => void)[] = [];

  constructor(fn: PoolFunction, host: HostPool, options: { queueLengthMax: number }) {
    this.fn = fn;
    this.profile = new FunctionProfile(fn);
    this.#host = host;
    this.#queueLengthMax = options.queueLengthMax;
  }

  get instances(): ReadonlySet<Instance> {
    return this.#instances;
  }

  get waiting(): number {
    return this.#waiters.length;
  }

  /** A free slot now, or undefined. */
  tryAcquire(): Acquired | undefined {
    while (this.#available.length > 0) {
      const instance = this.#available.at(-1);
      if (instance === undefined) break;
      if (instance.available) return this.#reserve(instance);
      this.#available.pop();
    }
    return undefined;
  }

  /** Rejects with the signal's reason when that aborts first. */
  acquire({ timeoutMs, signal }: AcquireOptions): Promise<Acquired> {
    const now = this.tryAcquire();
    if (now !== undefined) return Promise.resolve(now);
    if (this.#waiters.length >= this.#queueLengthMax)
      return Promise.reject(
        new HatchError('host.busy', `${this.#waiters.length} calls wait for "${this.fn.name}"`),
      );
    return new Promise((resolve, reject) => {
      const leave = (reason: HatchError): void => {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
        waiter.stop();
        this.#checkEmpty();
        reject(reason);
      };
      const onAbort = (): void => leave(toHatchError(signal?.reason));
      signal?.addEventListener('abort', onAbort);
      const timer = setTimeout(() => {
        const waited = `No instance of "${this.fn.name}" was free for ${timeoutMs} ms`;
        leave(new HatchError('host.busy', waited));
      }, timeoutMs);
      const stop = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      };
      const waiter = { resolve, reject, stop };
      this.#waiters.push(waiter);
      this.startAsNeeded();
    });
  }

  release({ instance }: Acquired): void {
    instance.reserved--;
    this.#freed(instance);
  }

  /** One more instance, left idle. */
  prepare(): Promise<Instance> {
    return this.#start('deploy');
  }

  /** One more instance for a call that is expected; without room it is none. */
  async prewarm(): Promise<void> {
    await this.#start('expected');
  }

  /** Instances that keep-alive has had enough of, those without a call for longest. */
  surplus(nowMs: number): Instance[] {
    const { demand } = this.profile;
    const idle = this.idleInstances();
    return idle.slice(0, Math.max(idle.length + demand.busy - demand.wanted(nowMs), 0));
  }

  /** Whether an instance that a call is expected for is not there; each is said once. */
  takeMissing(nowMs: number): boolean {
    const { demand } = this.profile;
    while (!this.#retired && demand.takeExpected(nowMs, this.#host.clock, 1) > 0) {
      const wanted = Math.min(demand.wanted(nowMs), this.fn.instancesMax) - demand.busy;
      if (wanted > this.idleInstances().length + this.#starting) return true;
    }
    return false;
  }

  /** Those without a call, the one that has been so for longest first. */
  idleInstances(): Instance[] {
    return [...this.#instances]
      .filter((instance) => instance.idle && instance.sandbox.alive)
      .sort((a, b) => a.idleSinceMs - b.idleSinceMs);
  }

  /** As many starts as there are calls without one, within the function's own limit. */
  startAsNeeded(): void {
    const slots = slotsOf(this.fn);
    while (
      this.#waiters.length > this.#starting * slots &&
      this.#instances.size + this.#starting < this.fn.instancesMax
    ) {
      this.#start('call').catch((error: unknown) => {
        const failure = toHatchError(error, 'host.start_failed');
        // Without room on the host the calls wait on: whoever gives some back starts us again.
        if (failure.code === 'host.busy') return;
        this.#rejectFirst(failure);
        // Others may have counted on the same start.
        this.startAsNeeded();
      });
    }
  }

  /**
   * Ends what is idle now, the rest when its calls and those that wait have ended; resolves when
   * all are gone.
   */
  async retire(): Promise<void> {
    this.#retired = true;
    for (const instance of this.#instances) if (instance.idle) void instance.sandbox.destroy();
    await this.#empty();
  }

  /** Ends everything at once; waiting calls get the reason. */
  async close(reason: HatchError): Promise<void> {
    this.#retired = true;
    while (this.#waiters.length > 0) this.#rejectFirst(reason);
    for (const { sandbox } of this.#instances) void sandbox.destroy(reason);
    await this.#empty();
  }

  async #start(cause: StartCause): Promise<Instance> {
    this.#starting++;
    let instance: Instance;
    try {
      instance = await this.#host.startInstance(this.profile, cause);
      this.#instances.add(instance);
    } catch (error) {
      // Calls may count on a start that somebody else wanted.
      if (cause !== 'call') queueMicrotask(() => this.startAsNeeded());
      throw error;
    } finally {
      this.#starting--;
      this.#checkEmpty();
    }
    instance.prepared = cause !== 'call';
    instance.onFree = () => this.#freed(instance);
    void instance.sandbox.ended.then(() => this.#forget(instance));
    this.#offer(instance);
    // What was made for a call that found another instance counts as used: so many were needed.
    if (!instance.taken && cause !== 'expected')
      this.profile.demand.added(this.#instances.size, performance.now(), this.#host.clock);
    return instance;
  }

  /** A call has left it: one that may not be used again ends, any other is for the next. */
  #freed(instance: Instance): void {
    if (instance.fn.reuse !== 'never') this.#offer(instance);
    else if (instance.idle) {
      this.#left(instance);
      void instance.sandbox.destroy();
    }
  }

  /** Its last call has ended. */
  #left(instance: Instance): void {
    instance.idleSinceMs = performance.now();
    if (!instance.taken) return;
    instance.taken = false;
    this.profile.demand.freed(instance.idleSinceMs, this.#host.clock);
  }

  /** A slot has come free: the call that waits longest gets it. */
  #offer(instance: Instance): void {
    while (instance.available) {
      const waiter = this.#waiters.shift();
      if (waiter === undefined) break;
      waiter.stop();
      waiter.resolve(this.#reserve(instance));
    }
    if (instance.idle) this.#left(instance);
    if (!instance.available) return;
    if (this.#retired) {
      if (instance.idle) void instance.sandbox.destroy();
      return;
    }
    if (!this.#available.includes(instance)) this.#available.push(instance);
    this.#host.onRoom();
  }

  #reserve(instance: Instance): Acquired {
    const first = instance.served === 0 && instance.reserved === 0;
    instance.reserved++;
    if (!instance.taken) {
      instance.taken = true;
      this.profile.demand.taken(performance.now());
    }
    const last = this.#available.length - 1;
    if (!instance.available && this.#available[last] === instance) this.#available.pop();
    const { startRecord } = instance;
    // An instance prepared ahead, as by a deploy, serves its first call hot.
    const caused = first && !instance.prepared;
    return caused
      ? { instance, start: startRecord.path, startRecord }
      : { instance, start: 'hot', startRecord: undefined };
  }

  #forget(instance: Instance): void {
    this.#instances.delete(instance);
    const index = this.#available.indexOf(instance);
    if (index >= 0) this.#available.splice(index, 1);
    this.#left(instance);
    this.startAsNeeded();
    this.#checkEmpty();
    this.#host.onRoom();
  }

  async #empty(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onEmpty.push(resolve);
    this.#checkEmpty();
    await promise;
  }

  #checkEmpty(): void {
    if (this.#instances.size + this.#starting + this.#waiters.length > 0) return;
    for (const resolve of this.#onEmpty.splice(0)) resolve();
  }

  #rejectFirst(error: HatchError): void {
    const waiter = this.#waiters.shift();
    waiter?.stop();
    waiter?.reject(error);
    this.#checkEmpty();
  }
}
