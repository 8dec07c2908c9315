/** Many idle instances of `hello` at once: what each costs, and whether later ones start slower. */
import { execFileSync } from 'node:child_process';
import { openBenchEngine } from './engines.ts';
import { median, rowOf, type Measured, type Options } from './report.ts';
import { Scratch } from './scratch.ts';

export async function measureDensity({ quick, progress }: Options): Promise<Measured> {
  const count = quick ? 80 : 500;
  const edge = quick ? 5 : 50;
  const idleMs = quick ? 0 : 12_000;
  using scratch = new Scratch();
  await using opened = new AsyncDisposableStack();
  progress('Opening an engine');
  const { worker } = await openBenchEngine({
    name: 'density',
    index: 3,
    parked: 0,
    scratch,
    opened,
  });
  touchMemory(count);
  progress(`Starting ${count} instances and leaving them idle`);
  const { startMs, pssMB, machineMB, teardownMs } = await worker.ask('density', { count, idleMs });
  const mean = pssMB.reduce((sum, one) => sum + one, 0) / pssMB.length;
  const ratio = median(startMs.slice(-edge)) / median(startMs.slice(0, edge));
  return {
    rows: [
      rowOf('pss-per-instance', 'MB', pssMB, {
        mean: Number(mean.toPrecision(4)),
        note: `PID 1 and function together, after ${idleMs / 1000} s; mean ${mean.toFixed(2)} MB`,
      }),
      rowOf('machine-memory-per-instance', 'MB', [machineMB], {
        note: 'what the whole machine had less of: page tables, mounts, namespaces included',
      }),
      rowOf('density-start', 'ms', startMs),
      rowOf('density-teardown', 'ms', [teardownMs], {
        note: `all ${count}, until nothing is left`,
      }),
    ],
    ratios: { 'last-50/first-50': Number(ratio.toPrecision(4)) },
    budgets: [
      { what: 'PSS of an idle instance, mean', value: mean, unit: 'MB', atMost: 3 },
      { what: 'last-50/first-50', value: ratio, unit: '', atMost: 1.5 },
    ],
  };
}

/** More than the memory of an instance and what the kernel needs for it. */
const touchedMBEach = 6;

/**
 * A virtual machine gets memory from its own host page by page, at the first touch, which takes
 * several times as long as all the kernel does for a page. Instances that reach such memory start
 * slower, however many others live: so all that this run will use is touched once, and freed.
 */
function touchMemory(instances: number): void {
  const script = `for (let block = 0; block < ${instances}; block++)
    globalThis['block' + block] = Buffer.alloc(${touchedMBEach * 1e6}, 1);`;
  execFileSync(process.execPath, ['-e', script]);
}
