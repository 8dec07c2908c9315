/**
 * From a NATS message to its reply: resolve the function, take an instance, call it, answer.
 *
 * This is the path of every call, so it works in the subscription's callback, parses headers only
 * when a message has some and never looks into a payload.
 */
import { nuid } from '@nats-io/nats-core';
import type { Msg, MsgHdrs, NatsConnection, Subscription } from '@nats-io/nats-core';
import { channels } from '../base/channels.ts';
import type { CallRecord } from '../base/channels.ts';
import { nowNs, nsPerMs } from '../base/clock.ts';
import { HatchError, messageOf, toHatchError } from '../base/errors.ts';
import { CallRecorder } from './call-recorder.ts';
import { callHeadersOf } from './call-headers.ts';
import { errorReply, replyHeaders } from './reply.ts';
import { Vigil } from './vigil.ts';
import type { CallRequest } from '../pool/instance.ts';
import type { CallResult } from '../sandbox/function-channel.ts';
import type { Acquired, InstancePool } from './instance-pool.ts';
import type { PoolFunction } from '../pool/pool-function.ts';
import type { CallHeaders } from './call-headers.ts';
import type { ReplyFacts } from './reply.ts';

export interface DispatcherOptions {
  connection: NatsConnection;
  pool: InstancePool;
  /**
   * A promise when the version has to be fetched first; undefined, or a thrown `*.not_found`, when
   * the function, or that version or alias of it, is not deployed.
   */
  resolve: Resolve;
  /** Calls admitted at one time, the waiting ones included. */
  inFlightMax: number;
  /** Told what no caller can be told. */
  log: DispatchLog;
}

export type Resolve = (
  name: string,
  versionOrAlias?: string,
) => PoolFunction | Promise<PoolFunction> | undefined;

export interface DispatchLog {
  warn(facts: Record<string, unknown>, message: string): void;
}

/** Every host of a cluster subscribes in this group: each call runs once. */
export const queueGroup = 'hatch';
export const callSubjectPrefix = 'hatch.fn.';

/** One call on its way; what is undefined has not happened yet. */
interface Call {
  readonly message: Msg;
  readonly subject: string;
  /** Empty when the caller wants no reply. */
  readonly replySubject: string;
  readonly headers: CallHeaders;
  readonly requestId: string;
  readonly receivedNs: number;
  fn: PoolFunction | undefined;
  timeoutMs: number;
  /** Ends its waiting for an instance. */
  waiting: AbortController | undefined;
  acquired: Acquired | undefined;
  dispatchedNs: number | undefined;
}

export class Dispatcher {
  readonly #options: DispatcherOptions;
  readonly #recorder = new CallRecorder();
  readonly #vigil = new Vigil();
  readonly #inFlight = new Set<Call>();
  #subscriptions: Subscription[] = [];
  #onIdle: (() => void) | undefined;

  constructor(options: DispatcherOptions) {
    this.#options = options;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  start(): void {
    this.#subscriptions = ['*', '*.*'].map((tokens) =>
      this.#options.connection.subscribe(callSubjectPrefix + tokens, {
        queue: queueGroup,
        callback: (error, message) => {
          if (error === null) this.#receive(message);
          else this.#options.log.warn({ error: error.message }, 'Cannot receive calls');
        },
      }),
    );
  }

  /** Takes no new calls, lets those under way end for `drainMs`, then refuses them. */
  async stop({ drainMs }: { drainMs: number }): Promise<void> {
    await Promise.allSettled(this.#subscriptions.map((subscription) => subscription.drain()));
    if (this.#inFlight.size > 0) await this.#idle(drainMs);
    const cause = new HatchError('host.draining', `Cannot finish in ${drainMs} ms: the host stops`);
    // Their instances are still busy: whoever stops the pool ends those.
    for (const call of this.#inFlight) this.#refuse(call, cause);
    await this.#recorder.flush();
    if (!this.#options.connection.isClosed()) await this.#options.connection.flush();
  }

  /**
   * Ends the calls under way here that have this id, wherever on their way they are: their callers
   * are told, their places are free. Returns how many there were.
   */
  cancel(requestId: string): number {
    const calls = [...this.#inFlight].filter((call) => call.requestId === requestId);
    for (const call of calls) {
      const reason = new HatchError('request.cancelled', 'The call was cancelled by its caller');
      if (call.acquired !== undefined) call.acquired.instance.cancel(requestId, reason);
      else if (call.waiting !== undefined) call.waiting.abort(reason);
      else this.#fail(call, reason);
    }
    return calls.length;
  }

  #receive(message: Msg): void {
    const receivedNs = nowNs();
    const { subject } = message;
    const headers = callHeadersOf(message);
    const call: Call = {
      message,
      subject,
      replySubject: message.reply ?? '',
      headers,
      requestId: headers.requestId ?? nuid.next(),
      receivedNs,
      fn: undefined,
      timeoutMs: 0,
      waiting: undefined,
      acquired: undefined,
      dispatchedNs: undefined,
    };
    this.#inFlight.add(call);
    try {
      this.#admit(call);
    } catch (error) {
      this.#fail(call, error);
    }
  }

  #admit(call: Call): void {
    const { inFlightMax } = this.#options;
    if (this.#inFlight.size > inFlightMax) {
      throw new HatchError('host.busy', `Cannot admit the call: ${inFlightMax} are under way`);
    }
    if (call.headers.invalid !== undefined) throw call.headers.invalid;
    const fn = this.#resolve(call.subject);
    if (fn instanceof Promise) void this.#load(call, fn);
    else this.#start(call, fn);
  }

  async #load(call: Call, loading: Promise<PoolFunction>): Promise<void> {
    try {
      const fn = await loading;
      if (this.#inFlight.has(call)) this.#start(call, fn, elapsedMs(call));
    } catch (error) {
      this.#fail(call, error);
    }
  }

  #start(call: Call, fn: PoolFunction, spentMs = 0): void {
    call.fn = fn;
    call.timeoutMs = Math.min(fn.timeoutMs, call.headers.timeoutMs ?? fn.timeoutMs);
    const leftMs = call.timeoutMs - spentMs;
    if (leftMs <= 0) throw notReady(fn, call.timeoutMs);
    const acquired = this.#options.pool.tryAcquire(fn);
    if (acquired === undefined) void this.#wait(call, fn, leftMs);
    else this.#call(call, acquired, leftMs);
  }

  #resolve(subject: string): PoolFunction | Promise<PoolFunction> {
    const { resolve } = this.#options;
    const name = nameIn(subject);
    const refStart = callSubjectPrefix.length + name.length + 1;
    const ref = refStart < subject.length ? subject.slice(refStart) : undefined;
    const fn = ref === undefined ? resolve(name) : resolve(name, ref);
    if (fn !== undefined) return fn;
    if (ref === undefined || resolve(name) === undefined) {
      throw new HatchError(
        'function.not_found',
        `Cannot find function "${name}": "hatch ls" shows what is deployed`,
      );
    }
    throw new HatchError(
      'version.not_found',
      `Cannot find version or alias "${ref}" of function "${name}": see "hatch versions ${name}"`,
    );
  }

  async #wait(call: Call, fn: PoolFunction, timeoutMs: number): Promise<void> {
    const { pool } = this.#options;
    const { signal } = (call.waiting = new AbortController());
    try {
      const acquired = await pool.acquire(fn, { timeoutMs, signal });
      const leftMs = call.timeoutMs - elapsedMs(call);
      if (this.#inFlight.has(call) && !signal.aborted && leftMs > 0)
        return this.#call(call, acquired, leftMs);
      // Nobody waits for it any more: the function never learns of it.
      pool.release(acquired);
      signal.throwIfAborted();
      throw notReady(fn, call.timeoutMs);
    } catch (error) {
      this.#fail(call, error);
    }
  }

  #call(call: Call, acquired: Acquired, timeoutMs: number): void {
    const { requestId, subject, headers } = call;
    const payload = call.message.data;
    const request: CallRequest = { requestId, subject, attempt: 1, timeoutMs, payload };
    if (headers.all !== undefined) request.headers = headers.all;
    call.acquired = acquired;
    call.dispatchedNs = nowNs();
    acquired.instance.call(request).then(
      (result) => this.#succeed(call, result),
      (error: unknown) => this.#fail(call, error),
    );
    // The call is on its way: now there is time for what the one before it left to do.
    this.#recorder.begin(acquired.instance);
    const isAlone = (): boolean => this.#inFlight.size === 1 && this.#inFlight.has(call);
    if (call.fn !== undefined && isAlone()) this.#vigil.keep(call.fn, isAlone);
  }

  #succeed(call: Call, { payload }: CallResult): void {
    if (!this.#inFlight.has(call)) return this.#release(call);
    const endNs = nowNs();
    const { bytes, headers } = replyHeaders(factsOf(call, endNs));
    const bytesMax = this.#options.connection.info?.max_payload ?? Infinity;
    if (call.replySubject !== '' && bytes.length + payload.length > bytesMax) {
      return this.#fail(call, tooLarge(payload.length, bytesMax - bytes.length));
    }
    this.#publish(call, payload, headers);
    const outcome = { endNs, replyBytes: payload.length, error: undefined };
    // The client writes in a microtask of its own: nothing may keep the caller waiting for it.
    queueMicrotask(() => this.#finish(call, outcome));
  }

  #fail(call: Call, cause: unknown): void {
    if (this.#inFlight.has(call)) this.#finish(call, this.#answerError(call, cause));
    else this.#release(call);
  }

  /** Answers a call whose instance goes on: what it still does is of no interest any more. */
  #refuse(call: Call, cause: HatchError): void {
    const outcome = this.#answerError(call, cause);
    this.#answered(call);
    if (channels.callEnd.hasSubscribers) channels.callEnd.publish(recordOf(call, outcome));
  }

  #answerError(call: Call, cause: unknown): Outcome {
    const error = toHatchError(cause);
    const endNs = nowNs();
    const { headers, payload } = errorReply(error, factsOf(call, endNs));
    this.#publish(call, payload, headers);
    if (call.replySubject === '' || error.code === 'internal.bug') {
      const { requestId, subject } = call;
      const facts = { requestId, subject, code: error.code, stack: error.stack };
      this.#options.log.warn(facts, `Call failed: ${error.message}`);
    }
    return { endNs, replyBytes: payload.length, error };
  }

  #publish(call: Call, payload: Uint8Array, headers: MsgHdrs): void {
    if (call.replySubject === '') return;
    try {
      this.#options.connection.publish(call.replySubject, payload, { headers });
    } catch (error) {
      const facts = { requestId: call.requestId, error: messageOf(error) };
      this.#options.log.warn(facts, 'Cannot reply');
    }
  }

  /** The caller has its answer and the instance, if there is one, is through with the call. */
  #finish(call: Call, outcome: Outcome): void {
    this.#answered(call);
    const { acquired } = call;
    if (!channels.callEnd.hasSubscribers) return this.#release(call);
    const record = recordOf(call, outcome);
    if (acquired === undefined) {
      channels.callEnd.publish(record);
    } else if (call.fn?.reuse === 'never') {
      // Given back, this instance is destroyed, and its copy-ups with it.
      void this.#recorder.endNow(acquired.instance, record).then(() => this.#release(call));
    } else {
      this.#release(call);
      this.#recorder.end(acquired.instance, record);
    }
  }

  #release({ acquired }: Call): void {
    if (acquired !== undefined) this.#options.pool.release(acquired);
  }

  #answered(call: Call): void {
    this.#inFlight.delete(call);
    if (this.#inFlight.size === 0) this.#onIdle?.();
  }

  async #idle(timeoutMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, timeoutMs);
    this.#onIdle = resolve;
    await promise;
    clearTimeout(timer);
    this.#onIdle = undefined;
  }
}

interface Outcome {
  endNs: number;
  replyBytes: number;
  error: HatchError | undefined;
}

function factsOf(call: Call, endNs: number): ReplyFacts {
  return {
    requestId: call.requestId,
    start: call.acquired?.start,
    durationUs: Math.round((endNs - call.receivedNs) / 1000),
  };
}

function recordOf(call: Call, { endNs, replyBytes, error }: Outcome): CallRecord {
  const { acquired, fn } = call;
  return {
    requestId: call.requestId,
    functionName: fn?.name ?? nameIn(call.subject),
    functionVersion: fn?.version ?? '',
    instanceId: acquired?.instance.id,
    subject: call.subject,
    traceparent: call.headers.traceparent,
    start: acquired?.start,
    startRecord: acquired?.startRecord,
    receivedNs: call.receivedNs,
    dispatchedNs: call.dispatchedNs,
    endNs,
    requestBytes: call.message.data.length,
    replyBytes,
    error: error === undefined ? undefined : { code: error.code, message: error.message },
    copyUps: [],
  };
}

function elapsedMs(call: Call): number {
  return Math.floor((nowNs() - call.receivedNs) / nsPerMs);
}

function notReady(fn: PoolFunction, timeoutMs: number): HatchError {
  return new HatchError(
    'function.timeout',
    `Cannot call "${fn.name}": no instance was ready in ${timeoutMs} ms`,
  );
}

function nameIn(subject: string): string {
  const dot = subject.indexOf('.', callSubjectPrefix.length);
  return subject.slice(callSubjectPrefix.length, dot === -1 ? undefined : dot);
}

function tooLarge(resultBytes: number, limitBytes: number): HatchError {
  return new HatchError(
    'function.result_too_large',
    `Cannot reply with ${resultBytes} bytes: the NATS server takes ${limitBytes} in a message`,
    { details: { resultBytes, limitBytes } },
  );
}
