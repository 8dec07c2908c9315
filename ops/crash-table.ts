/**
 * `npm run test:crash -- [--machines N] [--file-systems TYPE,...]`: cuts the power of VMs that
 * write, 8 times each, and prints what is left of each file, by file system and by how it was
 * written.
 */
import { parseArgs } from 'node:util';
import { cutMachine, outcomes, type Outcome } from '../test/support/crash-cuts.ts';

const cuts = 8;
const { values } = parseArgs({
  options: {
    machines: { type: 'string', default: '5' },
    'file-systems': { type: 'string', default: 'ext4,btrfs' },
  },
});
const rows = new Map<string, Record<Outcome, number>>();
for (let machine = 1; machine <= Number(values.machines); machine++) {
  const judged = await cutMachine({ fileSystems: values['file-systems'].split(','), cuts });
  for (const { file, outcome } of judged) {
    const row = rows.get(file) ?? { new: 0, old: 0, older: 0, torn: 0, error: 0 };
    row[outcome]++;
    rows.set(file, row);
  }
  console.error(`crash: ${machine} of ${values.machines} machines, ${cuts} cuts each`);
}
console.log(`| | ${outcomes.join(' | ')} |\n|---|${'---:|'.repeat(outcomes.length)}`);
for (const [file, row] of rows)
  console.log(`| ${file} | ${outcomes.map((outcome) => row[outcome]).join(' | ')} |`);
