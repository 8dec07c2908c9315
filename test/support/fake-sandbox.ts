/** A container that is a plain object: for the tests of the pool above it. */
import { isolationHere } from '../../host/security/isolation.ts';
import type { StartPath } from '../../host/base/channels.ts';
import { HatchError } from '../../host/base/errors.ts';
import { Instance, type InstanceSandbox } from '../../host/pool/instance.ts';
import type { PoolFunction } from '../../host/pool/pool-function.ts';
import type { CallResult } from '../../host/sandbox/function-channel.ts';

interface RunningCall {
  resolve: (result: CallResult) => void;
  reject: (error: HatchError) => void;
}

export class FakeSandbox implements InstanceSandbox {
  readonly id: string;
  readonly root = undefined;
  readonly ended: Promise<HatchError>;
  /** Those that were told that their time is up. */
  readonly cancelled: number[] = [];
  /** Most calls that ran at one time. */
  callsAtOnce = 0;
  served = 0;
  memoryBytes = 2 ** 20;
  hostBytes = 0;
  frozen = false;
  /** How often freezing it was tried, and why that fails. */
  freezes = 0;
  cannotFreeze: HatchError | undefined;
  #alive = true;
  #lastCallId = 0;
  readonly #calls = new Map<number, RunningCall>();
  readonly #settleEnded: (reason: HatchError) => void;

  constructor(id: string) {
    this.id = id;
    const ended = Promise.withResolvers<HatchError>();
    this.ended = ended.promise;
    this.#settleEnded = ended.resolve;
  }

  get alive(): boolean {
    return this.#alive;
  }

  copyUpTime(): undefined {
    return undefined;
  }

  memoryInUse(): number {
    return this.memoryBytes;
  }

  async memoryPaidByHost(): Promise<number> {
    return this.hostBytes;
  }

  get running(): number {
    return this.#calls.size;
  }

  call(
    _metadata: unknown,
    _payload: Uint8Array,
    onStart: (callId: number) => void,
  ): Promise<CallResult> {
    this.frozen = false;
    const callId = ++this.#lastCallId;
    onStart(callId);
    this.served++;
    return new Promise((resolve, reject) => {
      this.#calls.set(callId, { resolve, reject });
      this.callsAtOnce = Math.max(this.callsAtOnce, this.#calls.size);
    });
  }

  async freeze(): Promise<void> {
    this.freezes++;
    if (this.cannotFreeze !== undefined) throw this.cannotFreeze;
    this.frozen = true;
  }

  cancel(callId: number): void {
    this.cancelled.push(callId);
  }

  /** Lets the oldest call return. */
  answer(): void {
    const [first] = this.#calls;
    if (first === undefined) return;
    this.#calls.delete(first[0]);
    first[1].resolve({ payload: new Uint8Array(), encoding: 'none' });
  }

  /** Ends a turn of the event loop later, as a process does. */
  async destroy(reason = new HatchError('host.draining', 'Retired')): Promise<void> {
    if (this.#alive) {
      this.#alive = false;
      for (const call of this.#calls.values()) call.reject(reason);
      this.#calls.clear();
      setImmediate(() => this.#settleEnded(reason));
    }
    await this.ended;
  }
}

export function fakeInstance(fn: PoolFunction, id: string, path: StartPath = 'forked'): Instance {
  const startRecord = {
    instanceId: id,
    functionName: fn.name,
    functionVersion: fn.version,
    path,
    steps: [],
    startNs: 1,
    endNs: 2,
    isolation: isolationHere(),
  };
  return new Instance({ fn, sandbox: new FakeSandbox(id), startRecord });
}

export function sandboxOf(instance: Instance): FakeSandbox {
  if (instance.sandbox instanceof FakeSandbox) return instance.sandbox;
  throw new Error('This instance has a container of its own');
}
