import assert from 'node:assert/strict';
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { after, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { encodeFrame, FrameReader, frameType } from '../../../host/protocol/frame.ts';
import { logStream } from '../../../host/protocol/invoke.ts';
import { pipe } from '../../../host/sys/socket.ts';
import {
  connectToHost,
  currentCall,
  installOutput,
  sendToHost,
} from '../../../runtime-init/output.ts';

const saved = (['stdout', 'stderr'] as const).map(
  (name) => [name, Object.getOwnPropertyDescriptor(process, name)] as const,
);
const [near, far] = pipe();
after(() => closeSync(far));

test('output travels as frames that name the stream and the call', async () => {
  const host = new Socket({ fd: near, writable: false });
  const frames: { callId: number; stream: number | undefined; text: string }[] = [];
  const reader = new FrameReader();
  const { promise, resolve } = Promise.withResolvers<void>();
  host.on('data', (chunk: Buffer) => {
    reader.push(chunk, ({ type, callId, body }) => {
      if (type !== frameType.log) return resolve();
      frames.push({ callId, stream: body[0], text: body.toString('utf8', 1) });
    });
  });
  installOutput();
  try {
    connectToHost(far);
    process.stdout.write('outside\n');
    await Promise.all(
      [7, 8].map((callId) =>
        currentCall.run({ callId }, async () => {
          process.stdout.write(`one ${callId}\n`);
          await Promise.resolve();
          process.stderr.write(`two ${callId}\n`);
        }),
      ),
    );
  } finally {
    for (const [name, descriptor] of saved)
      if (descriptor !== undefined) Object.defineProperty(process, name, descriptor);
  }
  sendToHost(encodeFrame(frameType.ready, 0));
  await promise;
  assert.deepEqual(frames, [
    { callId: 0, stream: logStream.stdout, text: 'outside\n' },
    { callId: 7, stream: logStream.stdout, text: 'one 7\n' },
    { callId: 8, stream: logStream.stdout, text: 'one 8\n' },
    { callId: 7, stream: logStream.stderr, text: 'two 7\n' },
    { callId: 8, stream: logStream.stderr, text: 'two 8\n' },
  ]);
  host.destroy();
});

test('a frame larger than the pipe takes waits for the reader, and arrives whole', async () => {
  const [here, there] = pipe();
  // The sender blocks its thread, so somebody else has to read.
  const readerCode = `
    const { readSync } = require('node:fs');
    const { parentPort, workerData } = require('node:worker_threads');
    const hash = require('node:crypto').createHash('sha256');
    const buffer = Buffer.alloc(65536);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
    let left = workerData.bytes;
    while (left > 0) {
      const size = readSync(workerData.fd, buffer);
      hash.update(buffer.subarray(0, size));
      left -= size;
    }
    parentPort.postMessage(hash.digest('hex'));`;
  const frame = encodeFrame(frameType.result, 1, Buffer.alloc(5_000_000, 'abc'));
  const worker = new Worker(readerCode, {
    eval: true,
    workerData: { fd: here, bytes: frame.length },
  });
  const digest = new Promise<string>((resolve) => worker.once('message', resolve));
  connectToHost(there);
  sendToHost(frame);
  const { createHash } = await import('node:crypto');
  assert.equal(await digest, createHash('sha256').update(frame).digest('hex'));
  await worker.terminate();
  closeSync(there);
  closeSync(here);
});
