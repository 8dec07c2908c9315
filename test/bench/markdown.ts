/** Puts what was measured between two marks of a document: no figure is typed by hand. */
import { cpus, release } from 'node:os';
import { readFileSync, writeFileSync } from 'node:fs';
import type { Measured } from './report.ts';

const begin = '<!-- bench:begin -->';
const end = '<!-- bench:end -->';

/** @throws Error when the document has no such marks */
export function writeIntoDocument(file: string, { rows, ratios }: Measured): void {
  const text = readFileSync(file, 'utf8');
  const from = text.indexOf(begin);
  const to = text.indexOf(end);
  if (from < 0 || to < from) throw new Error(`Mark the place in "${file}": ${begin} and ${end}`);
  const machine = `${cpus().length} cores of ${cpus()[0]?.model ?? 'a processor'}`;
  const lines = [
    begin,
    '',
    `${machine}, Linux ${release()}, Node.js ${process.version}:`,
    '',
    '| | p50 | p95 | unit | n |',
    '|---|---:|---:|---|---:|',
    ...rows
      .filter(({ n }) => n > 0)
      .map(({ name, p50, p95, unit, n }) => `| ${name} | ${p50} | ${p95} | ${unit} | ${n} |`),
    '',
    '| ratio | |',
    '|---|---:|',
    ...Object.entries(ratios).map(([name, ratio]) => `| ${name} | ${ratio} |`),
    '',
    '',
  ];
  writeFileSync(file, text.slice(0, from) + lines.join('\n').trimEnd() + `\n\n${text.slice(to)}`);
}
