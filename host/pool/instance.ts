/** A container that runs one version of one function: its calls, their time limits, its output. */
import { channels, type CopyUp, type LogRecord, type StartRecord } from '../base/channels.ts';
import { HatchError } from '../base/errors.ts';
import type { CancelCause } from '../protocol/invoke.ts';
import type { CallResult, Output } from '../sandbox/function-channel.ts';
import type { Sandbox } from '../sandbox/sandbox.ts';
import { CopyUpTracker } from '../storage/copy-up.ts';
import { slotsOf, type PoolFunction } from './pool-function.ts';

export interface CallRequest {
  requestId: string;
  subject: string;
  /** Absent when the message had none. */
  headers?: Record<string, string[]>;
  /** From 1. */
  attempt: number;
  /** What is left of the call's time. */
  timeoutMs: number;
  payload: Uint8Array;
}

/** What an instance needs of its container. */
export type InstanceSandbox = Pick<
  Sandbox,
  | 'id'
  | 'alive'
  | 'ended'
  | 'root'
  | 'copyUpTime'
  | 'call'
  | 'cancel'
  | 'destroy'
  | 'memoryInUse'
  | 'memoryPaidByHost'
  | 'freeze'
  | 'frozen'
>;

interface RunningCall {
  requestId: string;
  /** Fails it at once; what runs may still end by itself. */
  giveUp: (reason: HatchError, cause: CancelCause) => void;
}

export class Instance {
  readonly id: string;
  readonly fn: PoolFunction;
  readonly sandbox: InstanceSandbox;
  readonly startRecord: StartRecord;
  /** Calls promised to somebody; the pool counts them. */
  reserved = 0;
  /** Started ahead of any call. */
  prepared = false;
  /** Whether the demand for instances counts it as one with calls. */
  taken = false;
  /** Calls served so far, well or not. */
  served = 0;
  /** Since when nothing runs, as `performance.now()`. */
  idleSinceMs = performance.now();
  /** Called when a call that was given up ended after all. */
  onFree: () => void = () => undefined;
  readonly #calls = new Map<number, RunningCall>();
  readonly #copyUps: CopyUpTracker | undefined;
  #overdue = 0;
  /** The `idleSinceMs` that freezing was last tried for. */
  #triedToFreeze: number | undefined;
  #lastRequestId: string | undefined;

  constructor(options: { fn: PoolFunction; sandbox: InstanceSandbox; startRecord: StartRecord }) {
    this.id = options.sandbox.id;
    this.fn = options.fn;
    this.sandbox = options.sandbox;
    this.startRecord = options.startRecord;
    const root = options.sandbox.root;
    const timeOf = (inode: bigint) => this.sandbox.copyUpTime(inode);
    this.#copyUps = root === undefined ? undefined : new CopyUpTracker(root, { timeOf });
  }

  /** Whether it can take one more call. */
  get available(): boolean {
    const used = this.fn.reuse === 'never' ? this.served : 0;
    return this.sandbox.alive && this.reserved + this.#overdue + used < slotsOf(this.fn);
  }

  get idle(): boolean {
    return this.reserved === 0 && this.#overdue === 0;
  }

  /**
   * Rejects with `function.*`, with `function.timeout` exactly when the time is up; or with what
   * `cancel` says.
   */
  call(request: CallRequest): Promise<CallResult> {
    const { payload, ...metadata } = request;
    const { requestId, timeoutMs } = request;
    return new Promise((resolve, reject) => {
      let callId = 0;
      let overdue = false;
      const giveUp: RunningCall['giveUp'] = (reason, cause) => {
        if (overdue) return;
        overdue = true;
        this.#overdue++;
        clearTimeout(timer);
        reject(reason);
        this.#endOverdue(callId, cause);
      };
      const result = this.sandbox.call(metadata, payload, (id) => {
        callId = id;
        this.#calls.set(id, { requestId, giveUp });
      });
      this.#lastRequestId = requestId;
      const timer = setTimeout(
        () => giveUp(timeoutError(this.fn, timeoutMs), 'timeout'),
        timeoutMs,
      );
      const settle = (): void => {
        clearTimeout(timer);
        this.#calls.delete(callId);
        this.served++;
        if (!overdue) return;
        this.#overdue--;
        this.onFree();
      };
      result.then(
        (value) => {
          settle();
          resolve(value);
        },
        (error: unknown) => {
          settle();
          reject(error instanceof Error ? error : new Error(String(error)));
        },
      );
    });
  }

  /** Its caller wants its calls of that id no more: they fail with this, and are to end. */
  cancel(requestId: string, reason: HatchError): void {
    for (const call of this.#calls.values())
      if (call.requestId === requestId) call.giveUp(reason, 'caller');
  }

  /**
   * Stops all that runs in it until its next call. Tried once in each idle time: what cannot be
   * frozen stands still for as long as it is tried. Rejects with `host.start_failed`.
   */
  async freeze(): Promise<void> {
    if (!this.idle || this.#triedToFreeze === this.idleSinceMs) return;
    this.#triedToFreeze = this.idleSinceMs;
    await this.sandbox.freeze();
  }

  /** The files copied up since the last look. */
  async copyUps(): Promise<CopyUp[]> {
    if (!this.sandbox.alive) return [];
    return (await this.#copyUps?.look()) ?? [];
  }

  /** Console output carries its call; raw output belongs to the call that runs, or ran last. */
  logOutput({ callId, stream, text }: Output): void {
    if (!channels.log.hasSubscribers) return;
    const record: LogRecord = {
      timeMs: Date.now(),
      functionName: this.fn.name,
      functionVersion: this.fn.version,
      instanceId: this.id,
      requestId: this.#calls.get(callId)?.requestId ?? this.#lastRequestId,
      stream,
      text,
    };
    channels.log.publish(record);
  }

  /** A function that does not heed its signal, or blocks its event loop, is killed. */
  #endOverdue(callId: number, cause: CancelCause): void {
    this.sandbox.cancel(callId, cause);
    setTimeout(() => {
      // Calls that ran beside it did nothing wrong in time: they are told how their process ended.
      if (this.#calls.has(callId)) void this.sandbox.destroy(killedError(this.fn));
    }, this.fn.graceMs).unref();
  }
}

function timeoutError(fn: PoolFunction, timeoutMs: number): HatchError {
  return new HatchError(
    'function.timeout',
    `Function "${fn.name}" did not answer within ${Math.round(timeoutMs)} ms`,
    { details: { timeoutMs } },
  );
}

function killedError({ name, graceMs }: PoolFunction): HatchError {
  return new HatchError(
    'function.exited',
    `Instance of "${name}" was killed: a call went on for ${graceMs} ms after it had to end`,
  );
}
