/**
 * What one function suffers when another is in a hurry: parked starts of B, alone and while A
 * starts instances in bursts, which is also when containers are parked fastest; and calls of a hot
 * instance, alone and beside a fork bomb.
 */
import { join } from 'node:path';
import { openBenchEngine } from './engines.ts';
import type { TimedStart } from './neighbours.ts';
import { rowOf, type Measured, type Options } from './report.ts';
import { Scratch } from './scratch.ts';

export async function measureInterference({ quick, progress }: Options): Promise<Measured> {
  const rounds = quick ? 1 : 10;
  const starts = quick ? 20 : 50;
  const calls = quick ? 50 : 500;
  using scratch = new Scratch();
  await using opened = new AsyncDisposableStack();
  progress('Opening an engine');
  const { worker } = await openBenchEngine({
    name: 'interference',
    index: 7,
    parked: 4,
    args: ['--parked-max=64'],
    scratch,
    opened,
  });
  const quiet: TimedStart[] = [];
  const noisy: TimedStart[] = [];
  const aloneMs: number[] = [];
  const bombedMs: number[] = [];
  const burstMs: number[] = [];
  const bomb = join(import.meta.dirname, 'bomb');
  for (let round = 1; round <= rounds; round++) {
    progress(`Starts of B without and with bursts of A, round ${round} of ${rounds}`);
    quiet.push(...(await worker.ask('startBeside', { count: starts, burst: 0 })).starts);
    const beside = await worker.ask('startBeside', { count: starts, burst: burstOfA });
    noisy.push(...beside.starts);
    burstMs.push(...beside.burstMs);
    progress(`Calls without and with a fork bomb, round ${round} of ${rounds}`);
    const { quietMs, noisyMs } = await worker.ask('callBesideBomb', { count: calls, bomb });
    aloneMs.push(...quietMs);
    bombedMs.push(...noisyMs);
  }
  const ms = (all: readonly TimedStart[]) => all.map(({ tookMs }) => tookMs);
  const parked = (all: readonly TimedStart[]) => all.filter(({ path }) => path === 'parked').length;
  const rows = [
    rowOf('quiet', 'ms', ms(quiet), { parked: parked(quiet), note: 'a start of B, alone' }),
    rowOf('noisy', 'ms', ms(noisy), {
      parked: parked(noisy),
      note: `the same while A starts ${burstOfA} at once, again and again`,
    }),
    rowOf('burst', 'ms', burstMs, { note: `until all ${burstOfA} of A had started and ended` }),
    rowOf('quiet-call', 'ms', aloneMs, { note: 'a hot call, without NATS' }),
    rowOf('bombed-call', 'ms', bombedMs, { note: 'the same beside a fork bomb' }),
  ];
  const ratios = {
    'noisy-p95/quiet-p95': p95Ratio(rows[1], rows[0]),
    'bombed-call-p95/quiet-call-p95': p95Ratio(rows[4], rows[3]),
  };
  const budgets = Object.entries(ratios).map(([what, value]) => {
    return { what, value, unit: '', atMost: 2 };
  });
  return { rows, ratios, budgets };
}

const burstOfA = 50;

function p95Ratio(top: { p95: number } | undefined, bottom: { p95: number } | undefined): number {
  return Number(((top?.p95 ?? NaN) / (bottom?.p95 ?? NaN)).toPrecision(4));
}
