/** The host's ends of what leads to a function process and from it: start, calls, output. */
import type { Socket } from 'node:net';
import { errorCodes, HatchError, messageOf, type ErrorCode } from '../base/errors.ts';
import type { Step } from '../base/channels.ts';
import {
  encodeFrame,
  encodeJsonFrame,
  FrameReader,
  frameType,
  type Frame,
} from '../protocol/frame.ts';
import {
  decodeJson,
  encodeCall,
  encodeCancel,
  logStream,
  resultEncoding,
  type CallError,
  type CallMetadata,
  type CancelCause,
  type Failed,
  type Ready,
  type Specialisation,
} from '../protocol/invoke.ts';
import type { Connection } from '../sys/connection.ts';

export interface CallResult {
  payload: Uint8Array;
  encoding: 'bytes' | 'json' | 'none';
}

export interface Output {
  /** 0 for what belongs to no call. */
  callId: number;
  stream: 'stdout' | 'stderr';
  text: string;
}

interface PendingCall {
  resolve: (result: CallResult) => void;
  reject: (error: HatchError) => void;
}

export interface ChannelEnds {
  /** To the function. */
  invoke: Connection;
  /** From the function. */
  answers: Connection;
}

export interface ChannelEvents {
  onOutput: (output: Output) => void;
  /** The function closed its end, most often by ending. */
  onEnd: () => void;
  /** It cannot go on, or sent what no honest peer sends: whoever hears this closes the channel. */
  onBroken: (reason: HatchError) => void;
}

const nothing = Buffer.alloc(0);
const outputBytesMax = 2 ** 20;
/** After so much output of one function all others get their turn. */
const outputPiecesAtOnce = 1000;
const outputBytesAtOnce = 2 ** 20;
const outputPauseMs = 5;
const stepsMax = 64;
const stepNameCharsMax = 64;

export class FunctionChannel {
  /** Resolves when the process waits for its function; with the steps that took. */
  readonly parked: Promise<Step[]>;
  readonly #connection: Connection;
  readonly #socket: Socket;
  readonly #answers: Socket;
  readonly #reader = new FrameReader();
  readonly #events: ChannelEvents;
  readonly #calls = new Map<number, PendingCall>();
  #lastCallId = 0;
  #settleParked: { resolve: (steps: Step[]) => void; reject: (error: Error) => void };
  #settleReady: { resolve: (steps: Step[]) => void; reject: (error: Error) => void } | undefined;
  #closedBy: HatchError | undefined;
  #open = true;
  #loaded = false;
  #outputPieces = 0;
  #outputBytes = 0;

  constructor({ invoke, answers }: ChannelEnds, events: ChannelEvents) {
    this.#connection = invoke;
    this.#events = events;
    const parked = Promise.withResolvers<Step[]>();
    this.#settleParked = parked;
    this.parked = parked.promise;
    // Who assigns a function at once never waits for this.
    this.parked.catch(() => undefined);
    this.#socket = invoke.socket;
    this.#answers = answers.socket;
    this.#answers.on('data', (chunk: Buffer) => this.#receive(chunk));
    for (const end of [this.#socket, this.#answers]) end.on('close', () => this.#onClose());
  }

  /** False as soon as one side has closed it. */
  get open(): boolean {
    return this.#open && this.#closedBy === undefined;
  }

  get pendingCalls(): number {
    return this.#calls.size;
  }

  /**
   * Sends the function, with the network namespace that it is to enter: its process wakes up, and
   * waits for its root.
   */
  assign(specialisation: Specialisation, namespaceFds: readonly number[]): void {
    if (this.#closedBy !== undefined) throw this.#closedBy;
    this.#connection.send(encodeJsonFrame(frameType.specialise, 0, specialisation), namespaceFds);
  }

  /**
   * Sends the mount of the function's root, then that of its secrets and those of its volumes, when
   * it has some. Resolves when the bundle is loaded, with the steps it took.
   */
  sendRoot(mountFds: readonly number[]): Promise<Step[]> {
    if (this.#closedBy !== undefined) return Promise.reject(this.#closedBy);
    try {
      this.#connection.send(encodeFrame(frameType.root, 0), mountFds);
    } catch (cause) {
      const message = 'Container ended before it had its function: call again';
      return Promise.reject(new HatchError('host.start_failed', message, { cause }));
    }
    const ready = Promise.withResolvers<Step[]>();
    this.#settleReady = ready;
    return ready.promise;
  }

  /** Starts a call; `callId` is given to `onStart` before anything is sent. */
  call(metadata: CallMetadata, payload: Uint8Array, onStart: (callId: number) => void) {
    if (this.#closedBy !== undefined) return Promise.reject(this.#closedBy);
    const callId = (this.#lastCallId = (this.#lastCallId % 0xffffffff) + 1);
    onStart(callId);
    return new Promise<CallResult>((resolve, reject) => {
      this.#calls.set(callId, { resolve, reject });
      this.#send(encodeCall(callId, metadata, payload));
    });
  }

  /** Aborts the call's signal; the call still ends by itself, or with the instance. */
  cancel(callId: number, cause: CancelCause): void {
    if (this.#calls.has(callId)) this.#socket.write(encodeCancel(callId, cause));
  }

  /** Fails everything under way. Twice is fine. */
  close(reason: HatchError): void {
    if (this.#closedBy !== undefined) return;
    this.#closedBy = reason;
    this.#socket.destroy();
    this.#answers.destroy();
    this.#settleParked.reject(reason);
    this.#settleReady?.reject(reason);
    for (const call of this.#calls.values()) call.reject(reason);
    this.#calls.clear();
  }

  /**
   * The first call goes before this returns, as the instance has yet to wake up; those that come
   * together with it follow in one write.
   */
  #send(frame: Buffer): void {
    if (this.#socket.writableCorked > 0) {
      this.#socket.write(frame);
      return;
    }
    const sent = this.#connection.writeNow(frame);
    this.#socket.cork();
    process.nextTick(() => this.#socket.uncork());
    if (sent < frame.length) this.#socket.write(frame.subarray(sent));
  }

  #onClose(): void {
    const wasOpen = this.open;
    this.#open = false;
    if (wasOpen) this.#events.onEnd();
  }

  #receive(chunk: Buffer): void {
    try {
      this.#reader.push(chunk, (frame) => this.#onFrame(frame));
    } catch (error) {
      // Only hostile or broken code sends what cannot be read: nothing after it can be trusted.
      const reason = `Function broke its channel: ${messageOf(error)}`;
      this.#events.onBroken(new HatchError('function.exited', reason));
    }
  }

  #onFrame(frame: Frame): void {
    switch (frame.type) {
      case frameType.result:
        this.#endCall(frame.callId)?.resolve(decodeResult(frame));
        return;
      case frameType.error: {
        // Read before the call is taken out: what cannot be read must still fail it.
        const error = toError(decodeJson<CallError>(frame));
        this.#endCall(frame.callId)?.reject(error);
        return;
      }
      case frameType.log:
        this.#events.onOutput(decodeOutput(frame));
        this.#slowDown(frame.body.length);
        return;
      case frameType.parked:
        this.#settleParked.resolve(decodeSteps(frame));
        return;
      case frameType.ready: {
        const steps = decodeSteps(frame);
        // One that was assigned before it had parked reports all its steps here.
        this.#settleParked.resolve([]);
        this.#loaded = true;
        this.#settleReady?.resolve(steps);
        return;
      }
      case frameType.failed:
        this.#onFailed(toError(decodeJson<Failed>(frame)));
        return;
      default:
        throw new RangeError(`There is no frame type ${frame.type}`);
    }
  }

  /** Of the load, or later of the whole process: then every call under way has failed with it. */
  #onFailed(error: HatchError): void {
    if (this.#loaded) this.#events.onBroken(error);
    else this.#settleReady?.reject(error);
  }

  /** Output without end must not keep the host from the others: the function waits a little. */
  #slowDown(bytes: number): void {
    this.#outputPieces++;
    this.#outputBytes += bytes;
    if (this.#outputPieces < outputPiecesAtOnce && this.#outputBytes < outputBytesAtOnce) return;
    this.#outputPieces = 0;
    this.#outputBytes = 0;
    this.#answers.pause();
    setTimeout(() => this.#answers.resume(), outputPauseMs);
  }

  #endCall(callId: number): PendingCall | undefined {
    const call = this.#calls.get(callId);
    this.#calls.delete(callId);
    return call;
  }
}

function decodeResult(frame: Frame): CallResult {
  if (frame.body[0] === resultEncoding.none) return { payload: nothing, encoding: 'none' };
  const encoding = frame.body[0] === resultEncoding.json ? 'json' : 'bytes';
  return { payload: frame.body.subarray(1), encoding };
}

function decodeOutput(frame: Frame): Output {
  if (frame.body.length > outputBytesMax)
    throw new RangeError(`A piece of output of ${frame.body.length} bytes is too long`);
  return {
    callId: frame.callId,
    stream: frame.body[0] === logStream.stderr ? 'stderr' : 'stdout',
    text: frame.body.toString('utf8', 1),
  };
}

/** From here on nothing is as it should be: a function can answer what it likes. */
function decodeSteps(frame: Frame): Step[] {
  const { steps } = decodeJson<Ready>(frame);
  if (steps.length > stepsMax) throw new RangeError(`${steps.length} steps are too many`);
  return steps.map(({ name, startNs, endNs }) => {
    if (!Number.isFinite(startNs) || !Number.isFinite(endNs))
      throw new RangeError('A step has no time');
    return { name: String(name).slice(0, stepNameCharsMax), startNs, endNs };
  });
}

/** Only codes that a function can cause are believed. */
function toError(error: CallError | Failed): HatchError {
  const believed = error.code.startsWith('function.') || error.code === 'host.start_failed';
  const known = believed && Object.hasOwn(errorCodes, error.code);
  const code: ErrorCode = known ? error.code : 'function.threw';
  const details: Record<string, unknown> = {};
  if ('name' in error) details['name'] = String(error.name);
  if ('stack' in error) details['stack'] = String(error.stack);
  return new HatchError(code, String(error.message), { details });
}
