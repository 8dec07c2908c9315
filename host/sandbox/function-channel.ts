/** The host's end of the socket to a function process: its start, its calls, its output. */
import { Socket } from 'node:net';
import { HatchError, messageOf, type ErrorCode } from '../base/errors.ts';
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
  logStream,
  resultEncoding,
  type CallError,
  type CallMetadata,
  type Failed,
  type Ready,
  type Specialisation,
} from '../protocol/invoke.ts';
import { sendMessage } from '../sys/socket.ts';

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

const nothing = Buffer.alloc(0);

export class FunctionChannel {
  /** Resolves when the process waits for its function; with the steps that took. */
  readonly parked: Promise<Step[]>;
  readonly #fd: number;
  readonly #socket: Socket;
  readonly #reader = new FrameReader();
  readonly #onOutput: (output: Output) => void;
  readonly #calls = new Map<number, PendingCall>();
  #lastCallId = 0;
  #settleParked: { resolve: (steps: Step[]) => void; reject: (error: Error) => void };
  #settleReady: { resolve: (steps: Step[]) => void; reject: (error: Error) => void } | undefined;
  #closedBy: HatchError | undefined;

  constructor(fd: number, onOutput: (output: Output) => void) {
    this.#fd = fd;
    this.#onOutput = onOutput;
    const parked = Promise.withResolvers<Step[]>();
    this.#settleParked = parked;
    this.parked = parked.promise;
    // Who assigns a function at once never waits for this.
    this.parked.catch(() => undefined);
    this.#socket = new Socket({ fd, readable: true, writable: true });
    this.#socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    // The end of the process is told by its PID 1 and its pidfd; a broken pipe adds nothing.
    this.#socket.on('error', () => undefined);
  }

  get pendingCalls(): number {
    return this.#calls.size;
  }

  /** Sends the function and its root. Resolves when the bundle is loaded, with the steps it took. */
  assign(specialisation: Specialisation, rootMountFd: number): Promise<Step[]> {
    if (this.#closedBy !== undefined) return Promise.reject(this.#closedBy);
    const ready = Promise.withResolvers<Step[]>();
    this.#settleReady = ready;
    const frame = encodeJsonFrame(frameType.specialise, 0, specialisation);
    sendMessage(this.#fd, frame, [rootMountFd]);
    return ready.promise;
  }

  /** Starts a call; `callId` is given to `onStart` before anything is sent. */
  call(metadata: CallMetadata, payload: Uint8Array, onStart: (callId: number) => void) {
    if (this.#closedBy !== undefined) return Promise.reject(this.#closedBy);
    const callId = (this.#lastCallId = (this.#lastCallId % 0xffffffff) + 1);
    onStart(callId);
    return new Promise<CallResult>((resolve, reject) => {
      this.#calls.set(callId, { resolve, reject });
      this.#socket.write(encodeCall(callId, metadata, payload));
    });
  }

  /** Aborts the call's signal; the call still ends by itself, or with the instance. */
  cancel(callId: number): void {
    if (this.#calls.has(callId)) this.#socket.write(encodeFrame(frameType.cancel, callId));
  }

  /** Fails everything under way. Twice is fine. */
  close(reason: HatchError): void {
    if (this.#closedBy !== undefined) return;
    this.#closedBy = reason;
    this.#socket.destroy();
    this.#settleParked.reject(reason);
    this.#settleReady?.reject(reason);
    for (const call of this.#calls.values()) call.reject(reason);
    this.#calls.clear();
  }

  #receive(chunk: Buffer): void {
    try {
      this.#reader.push(chunk, (frame) => this.#onFrame(frame));
    } catch (error) {
      // Only hostile or broken code sends what cannot be read: nothing after it can be trusted.
      this.close(
        new HatchError('function.exited', `Function broke its channel: ${messageOf(error)}`),
      );
    }
  }

  #onFrame(frame: Frame): void {
    switch (frame.type) {
      case frameType.result:
        this.#endCall(frame.callId)?.resolve(decodeResult(frame));
        return;
      case frameType.error:
        this.#endCall(frame.callId)?.reject(toError(decodeJson<CallError>(frame)));
        return;
      case frameType.log:
        this.#onOutput({
          callId: frame.callId,
          stream: frame.body[0] === logStream.stderr ? 'stderr' : 'stdout',
          text: frame.body.toString('utf8', 1),
        });
        return;
      case frameType.parked:
        this.#settleParked.resolve(decodeJson<Ready>(frame).steps);
        return;
      case frameType.ready:
        this.#settleReady?.resolve(decodeJson<Ready>(frame).steps);
        return;
      case frameType.failed:
        this.#settleReady?.reject(toError(decodeJson<Failed>(frame)));
        return;
      default:
        throw new RangeError(`There is no frame type ${frame.type}`);
    }
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

/** Codes come from inside the container: only the function's own are believed. */
function toError(error: { code: ErrorCode; message: string; name?: string; stack?: string }) {
  const believed = error.code.startsWith('function.') || error.code === 'host.start_failed';
  const code = believed ? error.code : 'function.threw';
  const details: Record<string, unknown> = {};
  if (error.name !== undefined) details['name'] = error.name;
  if (error.stack !== undefined) details['stack'] = error.stack;
  return new HatchError(code, String(error.message), { details });
}
