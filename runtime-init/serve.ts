/** Loads the function's bundle and serves its calls, for the rest of its life. */
import { readFileSync } from 'node:fs';
import { Module } from 'node:module';
import { Socket } from 'node:net';
import { nowNs } from '../host/base/clock.ts';
import type { Step } from '../host/base/channels.ts';
import { StepTimer } from '../host/base/step-timer.ts';
import { encodeJsonFrame, FrameReader, frameType } from '../host/protocol/frame.ts';
import {
  decodeCall,
  decodeCancel,
  encodeCall,
  encodeResultFrame,
  secretsDirectory,
  type CallError,
  type Specialisation,
} from '../host/protocol/invoke.ts';
import { exitNow } from '../host/sys/fork.ts';
import { CallContext } from './context.ts';
import { resumeOptimising } from './optimising.ts';
import { connectToHost, currentCall, flushToHost, queueForHost, sendToHost } from './output.ts';
import { CallFailure, decodeEvent, encodeResult } from './payload.ts';

/** More of a message or a stack helps nobody. */
const errorCharsMax = 32_768;

export type Handler = (event: unknown, context: CallContext) => unknown;

/** What a function process needs besides the function: it can be made before that is known. */
export class FunctionServer {
  readonly #socket: Socket;
  readonly #calls = new Map<number, CallContext>();

  constructor({ invoke, answers }: { invoke: number; answers: number }) {
    this.#socket = new Socket({ fd: invoke, readable: true, writable: false });
    this.#socket.on('error', () => exitNow(1));
    this.#socket.on('close', () => exitNow(0));
    connectToHost(answers);
  }

  /**
   * Answers `ready` or `failed`, then serves calls. Never throws. `steps` is what the
   * start took so far; the load's own time is added.
   */
  load(specialisation: Specialisation, steps: Step[]): void {
    const timer = new StepTimer();
    const onLoaded = (handler: Handler): void => {
      timer.finish('load');
      sendToHost(encodeJsonFrame(frameType.ready, 0, { steps: [...steps, ...timer.steps] }));
      this.#receiveCalls(specialisation, handler);
    };
    const onFailed = (error: unknown): void => {
      const body = { ...describeError(error), code: 'function.load_failed' };
      sendToHost(encodeJsonFrame(frameType.failed, 0, body));
      exitNow(1);
    };
    try {
      resumeOptimising();
      readSecrets(specialisation);
      const handler = loadHandler(specialisation.entry);
      if (handler instanceof Promise) handler.then(onLoaded, onFailed);
      else onLoaded(handler);
    } catch (error) {
      onFailed(error);
    }
  }

  #receiveCalls(specialisation: Specialisation, handler: Handler): void {
    const reader = new FrameReader();
    this.#socket.on('data', (chunk: Buffer) => {
      reader.push(chunk, (frame) => {
        const { type, callId } = frame;
        if (type === frameType.cancel) this.#calls.get(callId)?.abort(decodeCancel(frame));
        if (type !== frameType.call) return;
        const { metadata, payload } = decodeCall(frame);
        const context = new CallContext(specialisation, metadata);
        this.#calls.set(callId, context);
        void currentCall.run({ callId }, async () => {
          queueForHost(await runCall({ callId, handler, context, payload }));
          this.#calls.delete(callId);
        });
      });
    });
  }
}

/** From their files, so that no message and no other process ever has the values. */
function readSecrets({ secretEnv = [] }: Specialisation): void {
  for (const name of secretEnv)
    process.env[name] = readFileSync(`${secretsDirectory}/${name}`, 'utf8');
}

/**
 * CommonJS loads at once, without a turn of the event loop; modules with top-level await do not.
 */
function loadHandler(entry: string, remark = ''): Handler | Promise<Handler> {
  if (entry.endsWith('.mjs')) return import(entry).then(handlerOf);
  // The bundle is one file at a known place: there is nothing to search for.
  const module = new Module(entry) as Module & { _compile(code: string, file: string): void };
  module.filename = entry;
  module.paths = [];
  module._compile(readFileSync(entry, 'utf8') + remark, entry);
  module.loaded = true;
  return handlerOf(module.exports);
}

function handlerOf(exports: unknown): Handler {
  const candidates = exports as { handler?: unknown; default?: unknown };
  for (const candidate of [candidates.handler, candidates.default])
    if (typeof candidate === 'function') return candidate as Handler;
  throw new Error('The bundle exports no function "handler" and no default function');
}

/** Loads a function of our own and does what a call does, but for running it. */
export function rehearseFunction(): void {
  const specialisation: Specialisation = {
    functionName: '',
    functionVersion: '',
    entry: '',
    memoryMb: 0,
    seccomp: 'node',
    env: {},
  };
  const metadata = { requestId: 'rehearsal', subject: 'rehearsal', attempt: 1, timeoutMs: 1000 };
  // V8 knows a text that it has compiled before: each time it is another.
  void loadHandler('/hatch/rehearsal.cjs', `//${nowNs()}`);
  new FrameReader().push(encodeCall(1, metadata, Buffer.from('{"name":"you"}')), (frame) => {
    const call = decodeCall(frame);
    const context = new CallContext(specialisation, call.metadata);
    const [encoding, bytes] = encodeResult({ event: decodeEvent(call.payload, context.headers) });
    encodeResultFrame(frame.callId, encoding, bytes);
    context.end();
  });
  encodeJsonFrame(frameType.ready, 0, { steps: [{ name: 'load', startNs: nowNs(), endNs: 0 }] });
}

async function runCall(call: {
  callId: number;
  handler: Handler;
  context: CallContext;
  payload: Buffer;
}): Promise<Buffer> {
  try {
    const value = await call.handler(decodeEvent(call.payload, call.context.headers), call.context);
    const [encoding, bytes] = encodeResult(value);
    return encodeResultFrame(call.callId, encoding, bytes);
  } catch (error) {
    const body = describeError(error);
    // What a handler throws when its time is up is the end of its time, whoever notices first.
    const code = call.context.timedOut ? 'function.timeout' : body.code;
    return encodeJsonFrame(frameType.error, call.callId, { ...body, code });
  } finally {
    call.context.end();
  }
}

function describeError(error: unknown): CallError {
  if (error instanceof CallFailure) return { code: error.code, message: error.message };
  if (!(error instanceof Error)) return { code: 'function.threw', message: textOf(error) };
  const { name, message, stack } = error;
  return {
    code: 'function.threw',
    message: textOf(message),
    name: textOf(name),
    ...(stack === undefined ? {} : { stack: textOf(stack) }),
  };
}

/** Anything may be thrown, with anything for a message. */
function textOf(value: unknown): string {
  try {
    return String(value).slice(0, errorCharsMax);
  } catch {
    return 'something that has no text';
  }
}

/**
 * Node's own exit would run handlers and join threads that belong to the zygote. What a function
 * leaves uncaught ends it, as it would in any Node.js program; the host hears why first, and tells
 * all calls under way.
 */
export function leaveThroughExitNow(): void {
  const reallyExit = (code?: number | string): never => {
    flushToHost();
    return exitNow(Number(code ?? 0) & 0xff);
  };
  Object.assign(process, { reallyExit, abort: () => exitNow(134) });
  process.on('uncaughtException', (error) => {
    const body = describeError(error);
    console.error(body.stack ?? body.message);
    flushToHost();
    sendToHost(encodeJsonFrame(frameType.failed, 0, body));
    exitNow(1);
  });
}
