/**
 * Who pays for an idle instance of `hello`: what is its own, what it shares with the zygote, and
 * what the kernel needs for it; what its control group is charged of all that, and what the host.
 */
import { openBenchEngine } from './engines.ts';
import { rowOf, type Measured, type Options } from './report.ts';
import { Scratch } from './scratch.ts';

export async function measureMemory({ quick, progress }: Options): Promise<Measured> {
  const count = quick ? 20 : 200;
  // The pool measures its instances once a second, some at a time.
  const idleMs = quick ? 2500 : 12_000;
  using scratch = new Scratch();
  await using opened = new AsyncDisposableStack();
  progress('Opening an engine');
  const { worker } = await openBenchEngine({
    name: 'memory',
    index: 5,
    parked: 0,
    scratch,
    opened,
  });
  progress(`Starting ${count} instances and leaving them idle`);
  const { instances, kernelMB, budgetedBytes } = await worker.ask('memory', { count, idleMs });
  const row = (name: string, field: keyof (typeof instances)[number], note: string) =>
    rowOf(
      name,
      'MB',
      instances.map((one) => one[field]),
      { note },
    );
  const total = mean(instances.map((one) => one.privateMB + one.pageTablesMB)) + kernelMB;
  const budgeted = budgetedBytes / 1e6 / count;
  const charged = mean(instances.map((one) => one.chargedMB));
  return {
    rows: [
      row('private', 'privateMB', 'pages that only this instance has'),
      row('shared', 'sharedMB', 'mapped, but there once for the zygote and all its children'),
      row('page-tables', 'pageTablesMB', 'of PID 1 and the function'),
      rowOf('kernel', 'MB', [kernelMB], {
        note: 'the rest that the kernel holds: tasks, mounts, namespaces, groups; a mean',
      }),
      row('charged', 'chargedMB', 'of all that but what is shared: counted against its limit'),
      rowOf('paid-by-host', 'MB', [total - charged], { note: 'the rest of it; a mean' }),
      rowOf('budgeted', 'MB', [budgeted], { note: 'what the memory budget counts; a mean' }),
    ],
    ratios: {
      'charged/total': Number((charged / total).toPrecision(4)),
      'budgeted/total': Number((budgeted / total).toPrecision(4)),
    },
    budgets: [],
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0) / values.length;
}
