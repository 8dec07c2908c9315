/** What a small write to a large file of a layer costs, by storage driver and file system. */
import { ratiosOf, type Measured, type Options, type Row } from './report.ts';
import type { StorageHandlers } from './storage-worker.ts';
import { Worker } from './worker.ts';

export async function measureStorage({ quick, progress }: Options): Promise<Measured> {
  const worker = new Worker<StorageHandlers>('storage-worker.ts');
  const rows: Row[] = [];
  try {
    for (const name of await worker.ask('names', undefined)) {
      progress(`Writing with ${name}`);
      rows.push(...(await worker.ask('measure', { name, quick })));
    }
  } finally {
    await worker.close();
  }
  const ratios = ratiosOf(rows, {
    'overlay/ext4 128 MiB/btrfs 128 MiB': ['overlay/ext4 128 MiB', 'btrfs 128 MiB'],
    'btrfs start/overlay/memory start': ['btrfs start', 'overlay/memory start'],
  });
  const taken = rows.find(({ name }) => name === 'btrfs 128 MiB taken')?.p50 ?? Infinity;
  const budget = { what: 'btrfs 128 MiB taken', value: taken, unit: 'KiB', atMost: 256 };
  return { rows, ratios, budgets: [budget] };
}
