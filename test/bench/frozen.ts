/** A call of an instance that is frozen, beside one of an instance that was idle for as long. */
import { openBenchEngine } from './engines.ts';
import { ratiosOf, rowOf, type Measured, type Options } from './report.ts';
import { Scratch } from './scratch.ts';

export async function measureFrozen({ quick, progress }: Options): Promise<Measured> {
  const count = quick ? 20 : 500;
  using scratch = new Scratch();
  await using opened = new AsyncDisposableStack();
  progress('Opening an engine');
  const { worker } = await openBenchEngine({
    name: 'frozen',
    index: 6,
    parked: 0,
    scratch,
    opened,
  });
  progress(`Calling it ${count} times hot and ${count} times frozen, in turns`);
  const { hotMs, thawedMs } = await worker.ask('frozen', { count, idleMs: 5 });
  const rows = [
    rowOf('hot', 'ms', hotMs, { note: 'without NATS, after 5 ms without a call' }),
    rowOf('thawed', 'ms', thawedMs, { note: 'the same, of an instance that is frozen' }),
  ];
  const addedMs = (rows[1]?.p50 ?? Infinity) - (rows[0]?.p50 ?? 0);
  return {
    rows,
    ratios: ratiosOf(rows, { 'thawed/hot': ['thawed', 'hot'] }),
    budgets: [{ what: 'thawing adds to p50', value: addedMs, unit: 'ms', atMost: 0.3 }],
  };
}
