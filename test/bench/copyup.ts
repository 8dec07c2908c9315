/** What it costs to be told how long each copy-up took: first writes with the probe and without. */
import type { CopyUpHandlers } from './copyup-worker.ts';
import { ratiosOf, rowOf, type Budget, type Measured, type Options, type Row } from './report.ts';
import { Scratch } from './scratch.ts';
import { Worker } from './worker.ts';

/** Files of one block are the worst case: nobody has so many, so they come without a promise. */
const workloads = [
  { name: '8 MiB', fileBytes: 8 << 20, files: 8, ratioMax: 1.02 },
  { name: '4 KiB', fileBytes: 4 << 10, files: 500, ratioMax: undefined },
] as const;

export async function measureCopyUp({ quick, progress }: Options): Promise<Measured> {
  const rounds = quick ? 5 : 30;
  using scratch = new Scratch();
  const worker = new Worker<CopyUpHandlers>('copyup-worker.ts');
  const rows: Row[] = [];
  const pairs: Record<string, [string, string]> = {};
  const budgets: Budget[] = [];
  try {
    for (const [index, { name, fileBytes, files, ratioMax }] of workloads.entries()) {
      progress(`Writing to ${files} files of ${name}, ${rounds} times with and without the probe`);
      const directory = scratch.directory(`copyup-${index}`);
      const samples = await worker.ask('copyUps', { directory, fileBytes, files, rounds });
      const { plainMs, probedMs, unavailable } = samples;
      const note = `first writes to ${files} files of ${name}`;
      const plain = rowOf(`copy-ups ${name}`, 'ms', plainMs, { note });
      const why = unavailable === undefined ? 'the same, timed by eBPF' : unavailable;
      const probed = rowOf(`copy-ups ${name}, timed`, 'ms', probedMs, { note: why });
      rows.push(plain, probed);
      if (unavailable !== undefined) continue;
      pairs[`timed/plain ${name}`] = [probed.name, plain.name];
      if (ratioMax === undefined) continue;
      const value = probed.p50 / plain.p50;
      const what = `timing multiplies copy-ups of ${name} by`;
      budgets.push({ what, value, unit: 'times', atMost: ratioMax });
    }
  } finally {
    await worker.close();
  }
  return { rows, ratios: ratiosOf(rows, pairs), budgets };
}
