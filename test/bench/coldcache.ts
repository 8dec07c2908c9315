/** What a start costs when its files are no longer in memory, and what a list of them mends. */
import { join } from 'node:path';
import type { CacheState } from './cold-starts.ts';
import { openBenchEngine } from './engines.ts';
import { ratiosOf, rowOf, type Measured, type Options } from './report.ts';
import { Scratch } from './scratch.ts';

const names = ['hello', 'markdown', 'ledger'];
const states: CacheState[] = ['warm', 'warm-listed', 'cold', 'listed'];

export async function measureColdCache({ quick, progress }: Options): Promise<Measured> {
  const rounds = quick ? 2 : 20;
  const count = quick ? 1 : 5;
  const measured: Measured = { rows: [], ratios: {}, budgets: [] };
  using scratch = new Scratch();
  for (const [index, name] of names.entries()) {
    await using opened = new AsyncDisposableStack();
    const functionDirectory = join(import.meta.dirname, '../../functions', name);
    const engine = { name, index, parked: 1, functionDirectory, scratch, opened };
    const { worker } = await openBenchEngine(engine);
    const samples = { warm: [], 'warm-listed': [], cold: [], listed: [] } as Record<
      CacheState,
      number[]
    >;
    let listedBytes = 0;
    for (let round = 1; round <= rounds; round++) {
      progress(`Starting ${name} from memory and from the disk, round ${round} of ${rounds}`);
      for (const cache of states) {
        const answer = await worker.ask('startCold', { count, cache });
        samples[cache].push(...answer.startMs);
        ({ listedBytes } = answer);
      }
    }
    const notes: Record<CacheState, string> = {
      warm: 'all files of its layers in memory',
      'warm-listed': 'the same, and read ahead in vain',
      cold: 'none but what the host itself has mapped (POSIX_FADV_DONTNEED)',
      listed: `the same, and the ${listedBytes} bytes that a start reads are read ahead`,
    };
    for (const cache of states)
      measured.rows.push(rowOf(`${name} ${cache}`, 'ms', samples[cache], { note: notes[cache] }));
    Object.assign(
      measured.ratios,
      ratiosOf(measured.rows, {
        [`${name} warm-listed/warm`]: [`${name} warm-listed`, `${name} warm`],
        [`${name} cold/warm`]: [`${name} cold`, `${name} warm`],
        [`${name} listed/cold`]: [`${name} listed`, `${name} cold`],
      }),
    );
  }
  return measured;
}
