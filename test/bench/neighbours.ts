/** Two functions on one engine, of which one is in the other's way. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { StartPath } from '../../host/base/channels.ts';
import type { Pool } from '../../host/pool/pool.ts';
import type { PoolFunction } from '../../host/pool/pool-function.ts';

export interface TimedStart {
  tookMs: number;
  path: StartPath;
}

const acquireTimeoutMs = 30_000;
/** B's starts come 40 to 60 ms apart, at no fixed beat that A's bursts could miss. */
const gapMs = () => 40 + 20 * Math.random();
/** Between two bursts of A, in which containers are parked again. */
const pauseMs = 100;

/** Starts of B, one after the other, beside bursts of A; 0 for none. */
export async function startBeside(
  pool: Pool,
  fn: PoolFunction,
  { count, burst }: { count: number; burst: number },
): Promise<{ starts: TimedStart[]; burstMs: number[] }> {
  const [a, b] = ['a', 'b'].map((name) => ({ ...fn, name, parked: name === 'b' ? 2 : 0 }));
  if (a === undefined || b === undefined) throw new Error('There are two');
  const over = new AbortController();
  const burstMs: number[] = [];
  const bursts = async (): Promise<void> => {
    while (burst > 0 && !over.signal.aborted) {
      const began = performance.now();
      await Promise.all(Array.from({ length: burst }, () => startOnce(pool, a)));
      burstMs.push(performance.now() - began);
      await sleep(pauseMs);
    }
  };
  const hurry = bursts();
  const starts: TimedStart[] = [];
  for (let number = 0; number < count; number++) {
    await sleep(gapMs());
    starts.push(await startOnce(pool, b));
  }
  over.abort();
  await hurry;
  return { starts, burstMs };
}

async function startOnce(pool: Pool, fn: PoolFunction): Promise<TimedStart> {
  const began = performance.now();
  const { instance, start } = await pool.acquire(fn, { timeoutMs: acquireTimeoutMs });
  const tookMs = performance.now() - began;
  await instance.sandbox.destroy();
  return { tookMs, path: start };
}
