/**
 * `npm run test:escape`: the escape checks alone, and a table of them: what an instance tried, and
 * whether it was held, forked, parked and booted.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const paths = ['forked', 'parked', 'booted'] as const;
const testLine = /^(✔|✖) (\d+) (forked|parked|booted): (.+?)(?:; can't apply: (.+))? \([\d.]+ms\)$/;

interface Row {
  what: string;
  results: Map<string, string>;
}

const repository = join(import.meta.dirname, '..');
const rows = new Map<number, Row>();
const tests = spawn('bash', [join(repository, 'ops/test.sh'), '^test/escape/'], {
  cwd: repository,
  stdio: ['ignore', 'pipe', 'inherit'],
});
const ended = once(tests, 'exit');
for await (const line of createInterface({ input: tests.stdout })) {
  const [, mark, number, path = '', what = '', why] = testLine.exec(line) ?? [];
  if (number === undefined) console.log(line);
  else note({ number: Number(number), path, what, result: resultOf(mark === '✔', why) });
}
const [status] = (await ended) as [number | null];
printTable();
process.exitCode = status ?? 1;

function resultOf(passed: boolean, why: string | undefined): string {
  if (!passed) return 'NOT HELD';
  return why === undefined ? 'held' : `can't apply: ${why}`;
}

/** A failed test is told a second time, at the end. */
function note(seen: { number: number; path: string; what: string; result: string }): void {
  const { number, path, what, result } = seen;
  const row = rows.get(number) ?? { what, results: new Map<string, string>() };
  row.results.set(path, result);
  rows.set(number, row);
}

function printTable(): void {
  const sorted = [...rows].toSorted(([a], [b]) => a - b);
  console.log(['', ...paths.map((path) => path.padEnd(8)), 'what'].join('\t'));
  for (const [number, { what, results }] of sorted) {
    const [first] = results.values();
    const same = new Set(results.values()).size === 1 && first?.startsWith("can't apply");
    const cells = same ? [first] : paths.map((path) => (results.get(path) ?? '-').padEnd(8));
    console.log([number, ...cells, what].join('\t'));
  }
}
