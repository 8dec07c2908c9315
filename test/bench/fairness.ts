/**
 * Instances that want a processor at the same time: what each gets, beside what its weight and its
 * quota promise. Their own accounts of CPU time are compared: others on the machine do not count.
 */
import { join } from 'node:path';
import { openBenchEngine } from './engines.ts';
import { rowOf, type Measured, type Options } from './report.ts';
import { Scratch } from './scratch.ts';

const weights = [400, 200, 100, 1];
const quotaCores = 0.5;

export async function measureFairness({ quick, progress }: Options): Promise<Measured> {
  const rounds = quick ? 1 : 4;
  const measuredMs = quick ? 1000 : 5000;
  using scratch = new Scratch();
  await using opened = new AsyncDisposableStack();
  progress('Opening an engine');
  const { worker } = await openBenchEngine({
    name: 'fairness',
    index: 4,
    parked: 0,
    functionDirectory: join(import.meta.dirname, 'spin'),
    scratch,
    opened,
  });
  const expected = weights.map((weight) => (100 * weight) / sum(weights));
  const shares: number[][] = [];
  const quotaErrors: number[] = [];
  for (let round = 1; round <= rounds; round++) {
    progress(`Weights ${weights.join(' : ')} on one processor, round ${round} of ${rounds}`);
    const instances = weights.map((cpuWeight) => ({ cpuWeight, cpu: undefined }));
    const cores = await worker.ask('contend', { instances, measuredMs });
    shares.push(cores.map((one) => (100 * one) / sum(cores)));
    progress(`A quota of ${quotaCores} cores, round ${round} of ${rounds}`);
    const limited = [{ cpuWeight: 100, cpu: quotaCores }];
    const [used = 0] = await worker.ask('contend', { instances: limited, measuredMs });
    quotaErrors.push(100 * Math.abs(used - quotaCores));
  }
  const errors = shares.map((round) =>
    Math.max(...round.map((share, at) => Math.abs(share - (expected[at] ?? 0)))),
  );
  return {
    rows: [
      rowOf('max-share-error', 'points', errors, {
        note: `weights ${weights.join(' : ')}: the one furthest from its share, of each round`,
      }),
      ...weights.map((weight, at) =>
        rowOf(
          `share-of-weight-${weight}`,
          '%',
          shares.map((round) => round[at] ?? 0),
          { expected: Number((expected[at] ?? 0).toPrecision(4)) },
        ),
      ),
      rowOf('quota-error', 'points', quotaErrors, { note: `of a quota of ${quotaCores} cores` }),
    ],
    ratios: {},
    budgets: [
      { what: 'max-share-error', value: Math.max(...errors), unit: 'points', atMost: 3 },
      { what: 'quota-error', value: Math.max(...quotaErrors), unit: 'points', atMost: 5 },
    ],
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
