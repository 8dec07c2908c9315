/**
 * A blob as a stream that survives its connections: after a break it goes on where it was. Ends
 * only when size and digest are right.
 */
import { createHash } from 'node:crypto';
import { HatchError } from '../../base/errors.ts';
import type { Digest } from '../digest.ts';
import { PassingFailure, connectionFailure, waitForNext } from './retry.ts';
import type { RetryPolicy } from './retry.ts';
import type { HttpAnswer } from './transport.ts';

export interface BlobStreamOptions {
  blob: { digest: Digest; sizeBytes: number };
  /** Asks for the bytes from `offset` on: 206, or 200 with all of them. */
  ask: (offset: number) => Promise<HttpAnswer>;
  policy: RetryPolicy;
  /** A connection that brings less than `stallBytesMin` in this time is given up. */
  stallMs: number;
  signal?: AbortSignal | undefined;
}

const stallBytesMin = 16 * 1024;
/** So much is progress: attempts count anew. */
const progressBytesMin = 64 * 1024;

export async function* readBlob(options: BlobStreamOptions): AsyncGenerator<Buffer> {
  const { blob, policy, signal } = options;
  const what = `download ${blob.digest}`;
  const hash = createHash('sha256');
  let offset = 0;
  let attempt = 1;
  let attemptOffset = 0;
  while (offset < blob.sizeBytes || offset === 0) {
    try {
      const answer = await options.ask(offset);
      for await (const chunk of bytesFrom(answer, offset, options)) {
        offset += chunk.length;
        if (offset > blob.sizeBytes) throw mismatch(blob.digest, `${blob.sizeBytes} bytes`, 'more');
        hash.update(chunk);
        yield chunk;
      }
      if (offset === blob.sizeBytes) break;
      throw new PassingFailure(`"${answer.url.host}" ended it after ${offset} bytes`);
    } catch (failure) {
      signal?.throwIfAborted();
      if (!(failure instanceof PassingFailure)) throw failure;
      if (offset - attemptOffset >= progressBytesMin) attempt = 1;
      attemptOffset = offset;
      await waitForNext({ what, attempt, failure, policy, signal });
      attempt += 1;
    }
  }
  const digest = `sha256:${hash.digest('hex')}`;
  if (digest !== blob.digest) throw mismatch(blob.digest, blob.digest, digest);
}

/** The bytes from `offset` on, whether the registry knows ranges or sends all from the start. */
async function* bytesFrom(
  answer: HttpAnswer,
  offset: number,
  { blob, stallMs }: BlobStreamOptions,
): AsyncGenerator<Buffer> {
  const { body, url } = answer;
  let skip = answer.status === 206 ? checkRange(answer, offset, blob) : offset;
  if (answer.status !== 206) checkLength(answer, blob);
  let received = 0;
  // Who reads us may take his time: that is no stall.
  let isHeld = false;
  const stalled = new PassingFailure(`"${url.host}" sent less than ${stallBytesMin} bytes in time`);
  const timer = setInterval(() => {
    if (!isHeld && received < stallBytesMin) body.destroy(stalled);
    received = 0;
  }, stallMs);
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      received += chunk.length;
      const skipped = Math.min(skip, chunk.length);
      skip -= skipped;
      if (skipped === chunk.length) continue;
      isHeld = true;
      const heldFrom = performance.now();
      yield chunk.subarray(skipped);
      isHeld = false;
      if (performance.now() - heldFrom < stallMs / 10) continue;
      received = 0;
      timer.refresh();
    }
  } catch (cause) {
    if (cause instanceof HatchError || cause instanceof PassingFailure) throw cause;
    throw connectionFailure(url.host, cause);
  } finally {
    clearInterval(timer);
    body.destroy();
  }
}

/** How many bytes to skip: a registry may begin earlier than asked, never later. */
function checkRange(answer: HttpAnswer, offset: number, blob: BlobStreamOptions['blob']): number {
  const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(answer.headers['content-range'] ?? '');
  const start = Number(range?.[1] ?? NaN);
  const total = range?.[2] ?? '*';
  if (total !== '*' && Number(total) !== blob.sizeBytes) {
    answer.body.destroy();
    throw mismatch(blob.digest, `${blob.sizeBytes} bytes`, total);
  }
  if (start <= offset) return offset - start;
  answer.body.destroy();
  throw new HatchError(
    'image.registry_failed',
    `Cannot download ${blob.digest}: "${answer.url.host}" sent another part than was asked for`,
  );
}

function checkLength(answer: HttpAnswer, blob: BlobStreamOptions['blob']): void {
  const length = answer.headers['content-length'];
  if (length === undefined || Number(length) === blob.sizeBytes) return;
  answer.body.destroy();
  throw mismatch(blob.digest, `${blob.sizeBytes} bytes`, length);
}

function mismatch(digest: Digest, expected: string, actual: string): HatchError {
  return new HatchError(
    'image.invalid',
    `Cannot download ${digest}: its bytes must be ${expected}, but are ${actual}; ` +
      'the registry or something on the way has changed it',
    { details: { expected, actual } },
  );
}
