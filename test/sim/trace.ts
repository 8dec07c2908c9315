/**
 * Traces in the form of the Azure Functions data set of 2019: `invocations.csv` has one column per
 * minute, `durations.csv` and `memory.csv` the averages of each function.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface TraceFunction {
  name: string;
  isTimer: boolean;
  /** Calls in each minute. */
  calls: number[];
  durationMs: number;
  memoryMb: number;
}

export interface Trace {
  functions: TraceFunction[];
  minutes: number;
  /** Functions without a duration, a memory size or a call; they are left out. */
  incomplete: number;
}

/** A trace that is not what it should be. */
export class TraceError extends Error {
  override readonly name = 'TraceError';
}

/** Throws a TraceError that says which file, line and column is wrong. */
export function readTrace(folder: string): Trace {
  const durations = readColumn(join(folder, 'durations.csv'), 'Average');
  const memory = readColumn(join(folder, 'memory.csv'), 'AverageAllocatedMb');
  const path = join(folder, 'invocations.csv');
  const { header, rows } = readCsv(path);
  const nameAt = columnOf(header, 'HashFunction', path);
  const triggerAt = columnOf(header, 'Trigger', path);
  const minutesAt = header.findIndex((name) => /^\d+$/.test(name));
  if (minutesAt < 0) throw new TraceError(`"${path}" has no columns of minutes (480, 481, …)`);
  const functions: TraceFunction[] = [];
  for (const [index, row] of rows.entries()) {
    const name = row[nameAt] ?? '';
    const calls = row.slice(minutesAt).map(Number);
    if (!calls.every((count) => Number.isInteger(count) && count >= 0))
      throw new TraceError(`"${path}", line ${index + 2}: a count of calls is no whole number`);
    const [durationMs, memoryMb] = [durations.get(name), memory.get(name)];
    if (durationMs === undefined || memoryMb === undefined || !calls.some(Boolean)) continue;
    functions.push({ name, isTimer: row[triggerAt] === 'timer', calls, durationMs, memoryMb });
  }
  if (functions.length === 0) throw new TraceError(`"${path}" has no function with calls`);
  const incomplete = rows.length - functions.length;
  return { functions, minutes: header.length - minutesAt, incomplete };
}

function readColumn(path: string, column: string): Map<string, number> {
  const { header, rows } = readCsv(path);
  const [nameAt, valueAt] = [
    columnOf(header, 'HashFunction', path),
    columnOf(header, column, path),
  ];
  const values = new Map<string, number>();
  for (const [index, row] of rows.entries()) {
    const value = Number(row[valueAt] || NaN);
    if (!(value >= 0))
      throw new TraceError(`"${path}", line ${index + 2}: "${column}" is no number`);
    values.set(row[nameAt] ?? '', value);
  }
  return values;
}

function readCsv(path: string): { header: string[]; rows: string[][] } {
  const text = readText(path).trim();
  const [header = [], ...rows] = text.split(/\r?\n/).map((line) => line.split(','));
  return { header, rows };
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new TraceError(`Cannot read "${path}": is it a folder with a trace?`, { cause });
  }
}

function columnOf(header: string[], name: string, path: string): number {
  const at = header.indexOf(name);
  if (at < 0) throw new TraceError(`"${path}" has no column "${name}"`);
  return at;
}
