/**
 * Standard output and error of the function's own JavaScript travel as frames, so that every piece
 * carries the call that wrote it, even when several run at once. What child processes and native
 * code write to descriptors 1 and 2 goes through a pipe that the host reads.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { writeSync } from 'node:fs';
import { Writable } from 'node:stream';
import { encodeFrame, frameType } from '../host/protocol/frame.ts';
import { logStream } from '../host/protocol/invoke.ts';
import { exitNow } from '../host/sys/fork.ts';

/** The call whose code is running; nothing outside calls. */
export const currentCall = new AsyncLocalStorage<{ callId: number }>();

const pieceBytesMax = 256 * 1024;
let hostFd: number | undefined;

/** In the zygote, before anything touches `console`: the global console binds to these for good. */
export function installOutput(): void {
  for (const name of ['stdout', 'stderr'] as const)
    Object.defineProperty(process, name, {
      value: makeStream(logStream[name]),
      configurable: true,
      enumerable: true,
    });
}

/** Frames go to this pipe from now on; writing to it blocks. */
export function connectToHost(answersFd: number): void {
  hostFd = answersFd;
}

/**
 * Writes a frame before it returns, as Node.js writes to a pipe: a function that exits or blocks
 * right after a line has still said it, and one that writes more than the host reads waits, instead
 * of filling its memory.
 */
export function sendToHost(frame: Buffer): void {
  if (hostFd === undefined) return;
  for (let sent = 0; sent < frame.length;) {
    try {
      sent += writeSync(hostFd, frame, sent);
    } catch {
      // Without a host there is nobody left to work for.
      exitNow(1);
    }
  }
}

const queued: Buffer[] = [];

/**
 * Sends a frame when what runs now is done, with all that is queued until then in one write: calls
 * that end together wake the host once.
 */
export function queueForHost(frame: Buffer): void {
  if (queued.push(frame) === 1) process.nextTick(flushToHost);
}

export function flushToHost(): void {
  const [only] = queued;
  if (only === undefined) return;
  const frames = queued.length === 1 ? only : Buffer.concat(queued);
  queued.length = 0;
  sendToHost(frames);
}

function makeStream(stream: number): Writable {
  return new Writable({
    decodeStrings: true,
    write(chunk: Buffer, _encoding, done) {
      const callId = currentCall.getStore()?.callId ?? 0;
      for (let offset = 0; offset < chunk.length; offset += pieceBytesMax) {
        const piece = chunk.subarray(offset, offset + pieceBytesMax);
        sendToHost(encodeFrame(frameType.log, callId, Buffer.of(stream), piece));
      }
      done();
    },
  });
}
