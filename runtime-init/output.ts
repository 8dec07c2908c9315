/**
 * Standard output and error of the function's own JavaScript travel as frames, so that every piece
 * carries the call that wrote it, even when several run at once. What child processes and native
 * code write to descriptors 1 and 2 goes through a pipe that the host reads.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Socket } from 'node:net';
import { Writable } from 'node:stream';
import { encodeFrame, frameType } from '../host/protocol/frame.ts';
import { logStream } from '../host/protocol/invoke.ts';

/** The call whose code is running; nothing outside calls. */
export const currentCall = new AsyncLocalStorage<{ callId: number }>();

const pieceBytesMax = 256 * 1024;
let target: Socket | undefined;

/** In the zygote, before anything touches `console`: the global console binds to these for good. */
export function installOutput(): void {
  for (const name of ['stdout', 'stderr'] as const)
    Object.defineProperty(process, name, {
      value: makeStream(logStream[name]),
      configurable: true,
      enumerable: true,
    });
}

export function redirectOutput(socket: Socket): void {
  target = socket;
}

function makeStream(stream: number): Writable {
  return new Writable({
    decodeStrings: true,
    // Nothing is held back: a function that exits or blocks right after a line has still said it.
    write(chunk: Buffer, _encoding, done) {
      const callId = currentCall.getStore()?.callId ?? 0;
      for (let offset = 0; offset < chunk.length; offset += pieceBytesMax) {
        const piece = chunk.subarray(offset, offset + pieceBytesMax);
        target?.write(encodeFrame(frameType.log, callId, Buffer.of(stream), piece));
      }
      done();
    },
  });
}
