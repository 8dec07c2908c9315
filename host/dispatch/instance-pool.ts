/**
 * What dispatch needs of a pool of instances, and nothing more. The pool of the host has this
 * shape; so has the fake that the tests of dispatch use.
 */
import type { CopyUp, StartPath, StartRecord } from '../base/channels.ts';
import type { HatchError } from '../base/errors.ts';
import type { AcquireOptions } from '../pool/function-pool.ts';
import type { CallRequest } from '../pool/instance.ts';
import type { PoolFunction } from '../pool/pool-function.ts';
import type { CallResult } from '../sandbox/function-channel.ts';

export interface Instance {
  readonly id: string;
  /** Rejects with HatchError `function.*`, or with what `cancel` says. */
  call(request: CallRequest): Promise<CallResult>;
  /** Fails its calls of that id, and tells the function to end them. */
  cancel(requestId: string, reason: HatchError): void;
  /** The files copied up since the last look. */
  copyUps(): Promise<CopyUp[]>;
}

/** The right to make one call on an instance; it ends with `release`. */
export interface Acquired {
  instance: Instance;
  start: StartPath;
  /** Present when this acquire caused the start. */
  startRecord: StartRecord | undefined;
}

export interface InstanceStats {
  id: string;
  functionName: string;
  functionVersion: string;
  state: string;
  /** Calls served so far. */
  calls: number;
}

export interface PoolStats {
  parked: number;
  instances: InstanceStats[];
}

export interface InstancePool {
  /** An idle instance or a free slot of one, at once; undefined when there is none. */
  tryAcquire(fn: PoolFunction): Acquired | undefined;
  /**
   * Waits in a bounded queue. Rejects with HatchError `host.busy`, `host.start_failed`
   * or `function.load_failed`, or with the signal's reason.
   */
  acquire(fn: PoolFunction, options: AcquireOptions): Promise<Acquired>;
  release(acquired: Acquired): void;
  /** Starts one instance and leaves it idle: the health check of a deploy. */
  prepare(fn: PoolFunction): Promise<StartRecord>;
  /** Lets the calls of a version finish, then destroys its instances. */
  retire(fn: { name: string; version: string }): Promise<void>;
  stats(): PoolStats;
}
