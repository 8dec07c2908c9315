/** What a scenario hands back, and how it is shown: a table on the terminal, JSON in a file. */
import { spawnSync } from 'node:child_process';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { statfsSync, writeFileSync } from 'node:fs';

export interface Row {
  name: string;
  unit: string;
  p50: number;
  p95: number;
  p99: number;
  /** Number of samples; 0 when it could not be measured here, and `note` says why. */
  n: number;
  /** What a reader has to know to judge the number. */
  note?: string;
  [further: string]: unknown;
}

export interface Budget {
  what: string;
  value: number;
  unit: string;
  atMost?: number;
  atLeast?: number;
}

export interface Measured {
  rows: Row[];
  ratios: Record<string, number>;
  /** What we have promised, beside what came out. */
  budgets: Budget[];
}

export interface Options {
  /** Few samples: shows that it runs, says nothing about speed. */
  quick: boolean;
  /** Says what is going on. */
  progress: (text: string) => void;
}

/** A row from samples; of none when `note` says why there are none. */
export function rowOf(
  name: string,
  unit: string,
  samples: readonly number[],
  further: Record<string, unknown> & { note?: string } = {},
): Row {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (share: number): number => round(percentile(sorted, share));
  return {
    name,
    unit,
    p50: at(0.5),
    p95: at(0.95),
    p99: at(0.99),
    n: samples.length,
    ...further,
  };
}

export function median(samples: readonly number[]): number {
  return percentile(
    [...samples].sort((a, b) => a - b),
    0.5,
  );
}

/** Of p50; left out where one side was not measured. */
export function ratiosOf(
  rows: readonly Row[],
  wanted: Record<string, [top: string, bottom: string]>,
): Record<string, number> {
  const ratios: Record<string, number> = {};
  for (const [name, [top, bottom]] of Object.entries(wanted)) {
    const [above, below] = [top, bottom].map((one) => rows.find((row) => row.name === one));
    if (above !== undefined && below !== undefined && above.n > 0 && below.n > 0)
      ratios[name] = round(above.p50 / below.p50);
  }
  return ratios;
}

export function printReport({ rows, ratios, budgets }: Measured): void {
  const lines = [['', 'p50', 'p95', 'p99', 'unit', 'n']];
  for (const { name, unit, p50, p95, p99, n } of rows) {
    const numbers = n === 0 ? ['-', '-', '-'] : [p50, p95, p99].map(shown);
    lines.push([name, ...numbers, unit, String(n)]);
  }
  if (rows.length > 0) console.log(`\n${align(lines)}`);
  for (const { name, note } of rows) if (note !== undefined) console.log(`  ${name}: ${note}`);
  if (Object.keys(ratios).length > 0) {
    const pairs = Object.entries(ratios).map(([name, ratio]) => [name, shown(ratio)]);
    console.log(`\n${align([['ratio', ''], ...pairs])}`);
  }
  if (budgets.length > 0)
    console.log(`\n${align([['promise', '', '', ''], ...budgets.map(judge)])}`);
}

export function writeReport(file: string, scenario: string, { rows, ratios }: Measured): void {
  const report = { scenario, machine: describeMachine(), rows, ratios };
  writeFileSync(file, `${JSON.stringify(report, undefined, 2)}\n`);
}

function percentile(sorted: readonly number[], share: number): number {
  const rank = Math.max(Math.ceil(sorted.length * share), 1);
  return sorted[rank - 1] ?? 0;
}

function round(value: number): number {
  return Number(value.toPrecision(4));
}

function shown(value: number): string {
  if (value >= 1000) return value.toFixed(0);
  return value.toFixed(value >= 100 ? 1 : 2);
}

function judge({ what, value, unit, atMost, atLeast }: Budget): string[] {
  const kept =
    (atMost === undefined || value <= atMost) && (atLeast === undefined || value >= atLeast);
  const limit = atMost === undefined ? `at least ${atLeast}` : `at most ${atMost}`;
  return [what, shown(value), `${limit} ${unit}`.trim(), kept ? 'kept' : 'MISSED'];
}

/** The first and all columns of words to the left, numbers to the right. */
export function align(lines: readonly string[][]): string {
  const widths = (lines[0] ?? []).map((_, at) =>
    Math.max(...lines.map((line) => line[at]?.length ?? 0)),
  );
  const isNumber = (cell: string): boolean => /^(?:[\d.-]+|p\d+|n)$/.test(cell);
  return lines
    .map((line) =>
      line
        .map((cell, at) =>
          isNumber(cell) ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function describeMachine(): Record<string, unknown> {
  const [cpu] = cpus();
  return {
    kernel: release(),
    architecture: process.arch,
    cpu: cpu?.model,
    cores: cpus().length,
    memoryBytes: totalmem(),
    node: process.version,
    cgroups: statfsSync('/sys/fs/cgroup').type === cgroup2Magic ? 'v2' : 'v1 or hybrid',
    commit: spawnSync('git', ['rev-parse', 'HEAD'], {
      cwd: import.meta.dirname,
      encoding: 'utf8',
    }).stdout?.trim(),
    loadAverage: loadavg(),
    measuredAt: new Date().toISOString(),
  };
}

const cgroup2Magic = 0x63677270;
