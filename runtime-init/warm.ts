/**
 * What a function's process will do first, done once in the zygote, so that its children find the
 * code compiled, the built-in modules loaded and the caches filled. Nothing here may draw a random
 * number, make a key or remember anything of the host: every child would share it.
 */
import { createRequire } from 'node:module';
import { Socket } from 'node:net';
import { inspect } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { encodeFrame, encodeJsonFrame, FrameReader, frameType } from '../host/protocol/frame.ts';
import { decodeCall, encodeCall, type Specialisation } from '../host/protocol/invoke.ts';
import { settleHeap } from '../host/sys/fork.ts';
import type { ZygoteSetup } from '../host/protocol/zygote.ts';
import { socketPair } from '../host/sys/socket.ts';
import { CallContext } from './context.ts';
import { currentCall, installOutput } from './output.ts';
import { decodeEvent, encodeResult } from './payload.ts';
import { rehearseStart } from './rehearse-start.ts';
import { leaveThroughExitNow } from './serve.ts';
import { installStackTraces } from './stack-traces.ts';

/** Loading them costs the zygote some memory, once; a child pays nothing for what it never uses. */
const builtIns = [
  'assert',
  'async_hooks',
  'buffer',
  'child_process',
  'crypto',
  'dns',
  'dns/promises',
  'events',
  'fs',
  'fs/promises',
  'http',
  'https',
  'module',
  'net',
  'os',
  'path',
  'perf_hooks',
  'process',
  'querystring',
  'readline',
  'sqlite',
  'stream',
  'stream/promises',
  'stream/web',
  'string_decoder',
  'timers',
  'timers/promises',
  'tls',
  'url',
  'util',
  'v8',
  'vm',
  'worker_threads',
  'zlib',
];
const rounds = 200;

export async function warmUp(setup: ZygoteSetup): Promise<void> {
  const random = Math.random;
  // Its first use seeds it, for this process and all its children alike.
  Math.random = () => {
    throw new Error('Math.random was called in the zygote');
  };
  try {
    silenceWarnings();
    installOutput();
    installStackTraces();
    leaveThroughExitNow();
    const require = createRequire('/hatch/');
    for (const name of builtIns) require(`node:${name}`);
    // These load undici and the other web interfaces, which Node makes when first touched.
    for (const name of ['fetch', 'Headers', 'AbortController', 'TextDecoder', 'URL', 'performance'])
      inspect((globalThis as Record<string, unknown>)[name]);
    await rehearseCalls();
    rehearseStart(setup);
    // Sockets close in the next turns of the event loop.
    for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
  } finally {
    Math.random = random;
  }
}

/**
 * Before the first fork: what was left lying about must not be copied page by page into every
 * child.
 */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as (options: { type: string; flavor: string }) => void;
  // "last-resort" gives back what the young generation had grown to: each page costs every fork.
  for (let round = 0; round < 2; round++) collect({ type: 'major', flavor: 'last-resort' });
  settleHeap();
}

/** sqlite's "experimental" notice belongs to the function that loads it, not to the zygote. */
function silenceWarnings(): void {
  process.removeAllListeners('warning');
}

async function rehearseCalls(): Promise<void> {
  const specialisation: Specialisation = {
    functionName: 'warm-up',
    functionVersion: '0',
    entry: '',
    memoryMb: 0,
    seccomp: 'node',
    env: {},
  };
  const [near, far] = socketPair('stream');
  const host = new Socket({ fd: near, readable: true, writable: true });
  const instance = new Socket({ fd: far, readable: true, writable: true });
  const reader = new FrameReader();
  instance.on('data', (chunk: Buffer) => {
    reader.push(chunk, (frame) => {
      const { metadata, payload } = decodeCall(frame);
      const context = new CallContext(specialisation, metadata);
      void currentCall.run({ callId: frame.callId }, async () => {
        const event = await Promise.resolve(decodeEvent(payload, context.headers));
        console.log('%s %o', 'warm-up', event);
        const [encoding, bytes] = encodeResult({ event, left: context.getRemainingTimeInMillis() });
        instance.write(encodeFrame(frameType.result, frame.callId, Buffer.of(encoding), bytes));
      });
    });
  });
  for (let callId = 1; callId <= rounds; callId++) {
    const metadata = { requestId: 'warm-up', subject: 'warm.up', attempt: 1, timeoutMs: 1000 };
    host.write(encodeCall(callId, metadata, Buffer.from('{"name":"warm-up"}')));
    await new Promise((resolve) => host.once('data', resolve));
  }
  encodeJsonFrame(frameType.error, 0, { stack: new Error('warm-up').stack });
  host.destroy();
  instance.destroy();
}
