/** Loads the function's bundle and serves its calls over the socket, for the rest of its life. */
import { createRequire } from 'node:module';
import { Socket } from 'node:net';
import { nowNs } from '../host/base/clock.ts';
import type { Step } from '../host/base/channels.ts';
import { encodeFrame, encodeJsonFrame, FrameReader, frameType } from '../host/protocol/frame.ts';
import { decodeCall, type CallError, type Specialisation } from '../host/protocol/invoke.ts';
import { exitNow } from '../host/sys/fork.ts';
import { CallContext } from './context.ts';
import { currentCall, redirectOutput } from './output.ts';
import { CallFailure, decodeEvent, encodeResult } from './payload.ts';
import { installStackTraces } from './stack-traces.ts';

export type Handler = (event: unknown, context: CallContext) => unknown;

export interface Serving {
  specialisation: Specialisation;
  socketFd: number;
  /** What the start took so far; `ready` reports it with the load's own time. */
  steps: Step[];
}

/** Answers `ready` or `failed` on the socket. Never rejects. */
export function loadAndServe({ specialisation, socketFd, steps }: Serving): void {
  const socket = new Socket({ fd: socketFd, readable: true, writable: true });
  const calls = new Map<number, CallContext>();
  socket.on('error', () => exitNow(1));
  socket.on('close', () => exitNow(0));
  redirectOutput(socket);
  installStackTraces();
  leaveThroughExitNow(socket, calls);

  const started = nowNs();
  const onLoaded = (handler: Handler): void => {
    const load = { name: 'load', startNs: started, endNs: nowNs() };
    socket.write(encodeJsonFrame(frameType.ready, 0, { steps: [...steps, load] }));
    receiveCalls({ socket, calls, handler, specialisation });
  };
  const onFailed = (error: unknown): void => {
    const body = describeError(error);
    socket.write(
      encodeJsonFrame(frameType.failed, 0, { ...body, code: 'function.load_failed' }),
      () => exitNow(1),
    );
  };
  try {
    const handler = loadHandler(specialisation.entry);
    if (handler instanceof Promise) handler.then(onLoaded, onFailed);
    else onLoaded(handler);
  } catch (error) {
    onFailed(error);
  }
}

/** CommonJS loads at once, without a turn of the event loop; modules with top-level await do not. */
export function loadHandler(entry: string): Handler | Promise<Handler> {
  if (entry.endsWith('.mjs')) return import(entry).then(handlerOf);
  return handlerOf(createRequire(entry)(entry));
}

function handlerOf(exports: unknown): Handler {
  const candidates = exports as { handler?: unknown; default?: unknown };
  for (const candidate of [candidates.handler, candidates.default])
    if (typeof candidate === 'function') return candidate as Handler;
  throw new Error('The bundle exports no function "handler" and no default function');
}

interface Receiving {
  socket: Socket;
  calls: Map<number, CallContext>;
  handler: Handler;
  specialisation: Specialisation;
}

function receiveCalls({ socket, calls, handler, specialisation }: Receiving): void {
  const reader = new FrameReader();
  socket.on('data', (chunk: Buffer) => {
    reader.push(chunk, (frame) => {
      if (frame.type === frameType.cancel) {
        calls.get(frame.callId)?.abort();
        return;
      }
      if (frame.type !== frameType.call) return;
      const { metadata, payload } = decodeCall(frame);
      const context = new CallContext(specialisation, metadata);
      calls.set(frame.callId, context);
      void currentCall.run({ callId: frame.callId }, async () => {
        socket.write(await runCall({ callId: frame.callId, handler, context, payload }));
        calls.delete(frame.callId);
      });
    });
  });
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
    return encodeFrame(frameType.result, call.callId, Buffer.of(encoding), bytes);
  } catch (error) {
    return encodeJsonFrame(frameType.error, call.callId, describeError(error));
  } finally {
    call.context.end();
  }
}

function describeError(error: unknown): CallError {
  if (error instanceof CallFailure) return { code: error.code, message: error.message };
  if (!(error instanceof Error)) return { code: 'function.threw', message: String(error) };
  const { name, message, stack } = error;
  return { code: 'function.threw', message, name, ...(stack === undefined ? {} : { stack }) };
}

/**
 * Node's own exit would run handlers and join threads that belong to the zygote. What a function
 * leaves uncaught ends it, as it would in any Node.js program, after the calls were told.
 */
function leaveThroughExitNow(socket: Socket, calls: Map<number, CallContext>): void {
  const reallyExit = (code?: number | string): never => exitNow(Number(code ?? 0) & 0xff);
  Object.assign(process, { reallyExit, abort: () => exitNow(134) });
  process.on('uncaughtException', (error) => {
    const body = describeError(error);
    console.error(body.stack ?? body.message);
    for (const callId of calls.keys()) socket.write(encodeJsonFrame(frameType.error, callId, body));
    exitNow(1);
  });
}
