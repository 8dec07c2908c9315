/**
 * Replays a trace of calls through the host's own policies, without containers:
 *
 *     npm run sim -- keepalive TRACE_FOLDER [--json FILE]
 *
 * The files of a trace are described in trace.ts, what is assumed about it in arrivals.ts.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { align, printReport, writeReport } from '../bench/report.ts';
import { arrivalModels, type ArrivalModel } from './arrivals.ts';
import { simulateKeepAlive, type KeepAliveReport } from './keepalive.ts';
import type { StartCosts } from './replay.ts';
import { readTrace } from './trace.ts';

const usage = `Usage: npm run sim -- keepalive TRACE_FOLDER [options]

Cold starts and idle memory of the host's policies, and of others, on a trace of calls:
invocations.csv, durations.csv and memory.csv, as the Azure Functions data set of 2019 has them.

  --json FILE        write the rows and ratios there
  --arrivals MODEL   minutes: one instance a function, which is called in a minute or not, as in
                     the literature (default); calls: every call, at a random moment of its minute
  --seed N           when in its minute a call comes, which the trace does not tell (default 1)
  --cap SHARE        memory for the capped rows, of the peak of fixed-10min (default 0.5)
  --starts FILE      start times from "npm run bench -- start --json FILE" (default: README.md's)
  --help             this text`;

const notes = `cold         calls that waited for a start, or were refused for want of memory
mean wait    for a start, over all calls; hot calls wait for nothing
idle         memory of instances without a call, over time, those started ahead included
capped-      with a cap on busy and idle memory together; busy instances never go
clairvoyant  evicts what takes most memory for longest until its next call (Belady's rule, by
             size); it starts nothing ahead, so a policy that does may do better
lower-bound  what no policy without starts ahead can go below (PFOO-L)`;

const progressAfterMs = 1000;
let onTerminal = false;

try {
  main();
} catch (error) {
  console.error(`sim: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}

function main(): void {
  const { folder, json, model, seed, capShare, starts } = readArguments();
  const startMs = performance.now();
  const trace = readTrace(folder);
  const costs = starts === undefined ? costsOfReadme() : costsOfReport(starts);
  const report = simulateKeepAlive(trace, { model, seed, capShare, costs, progress });
  progress('');
  const calls = report.rows[0]?.n ?? 0;
  console.log(
    `${trace.functions.length} functions, ${trace.minutes} minutes, ${calls} calls ` +
      `(${model}, seed ${seed}); a start takes ${costs.parked} ms parked, ${costs.forked} forked`,
  );
  if (trace.incomplete > 0)
    console.log(`Left out: ${trace.incomplete} functions without duration, memory or calls`);
  console.log(`\n${tableOf(report)}\n\n${notes}`);
  printReport({ ...report, rows: [] });
  if (json !== undefined) writeReport(json, 'keepalive', report);
  console.log(`\n${((performance.now() - startMs) / 1000).toFixed(1)} s`);
}

function tableOf({ rows }: KeepAliveReport): string {
  const header = [
    '',
    'cold',
    'share %',
    'mean wait us',
    'idle GB-h',
    'ahead',
    'evicted',
    'refused',
  ];
  const lines = rows.map((row) => [
    row.name,
    String(row.cold),
    (row.coldShare * 100).toFixed(3),
    (row.meanPenaltyMs * 1000).toFixed(2),
    row.idleGbHours.toFixed(1),
    String(row.prewarmed),
    String(row.evicted),
    String(row.refused),
    row.capMb === undefined ? '' : `cap ${(row.capMb / 1024).toFixed(1)} GB`,
  ]);
  return align([[...header, ''], ...lines]);
}

/** Only for those who wait. */
function progress(text: string): void {
  onTerminal ||= process.stderr.isTTY && performance.now() > progressAfterMs;
  if (onTerminal) process.stderr.write(`\r\x1b[K${text}`);
  else if (text !== '' && performance.now() > progressAfterMs) console.error(text);
}

interface Arguments {
  folder: string;
  json: string | undefined;
  model: ArrivalModel;
  seed: number;
  capShare: number;
  starts: string | undefined;
}

function readArguments(): Arguments {
  try {
    const { values, positionals } = parseArgs({
      options: {
        json: { type: 'string' },
        arrivals: { type: 'string', default: 'minutes' },
        seed: { type: 'string', default: '1' },
        cap: { type: 'string', default: '0.5' },
        starts: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
      allowPositionals: true,
    });
    if (values.help) exit(usage, 0);
    const [scenario, folder, ...rest] = positionals;
    if (scenario !== 'keepalive')
      throw new Error(`"${scenario ?? ''}" is no scenario: keepalive is`);
    if (folder === undefined || rest.length > 0) throw new Error('Name one folder with a trace');
    const model = arrivalModels.find((name) => name === values.arrivals);
    if (model === undefined) throw new Error(`--arrivals is one of ${arrivalModels.join(', ')}`);
    const [seed, capShare] = [Number(values.seed), Number(values.cap)];
    if (!Number.isInteger(seed)) throw new Error('--seed is a whole number');
    if (!(capShare > 0 && capShare <= 1))
      throw new Error('--cap is a share: more than 0, at most 1');
    return { folder, json: values.json, model, seed, capShare, starts: values.starts };
  } catch (error) {
    exit(`sim: ${error instanceof Error ? error.message : String(error)}\n\n${usage}`, 2);
  }
}

/** The last measured figures are the ones we publish. */
function costsOfReadme(): StartCosts {
  const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8');
  const p50 = (name: string): number | undefined => {
    const cell = new RegExp(`^\\| ${name} \\| ([\\d.]+) \\|`, 'm').exec(readme)?.[1];
    return cell === undefined ? undefined : Number(cell);
  };
  return checkCosts('README.md', p50);
}

function costsOfReport(file: string): StartCosts {
  const report = JSON.parse(readFileSync(file, 'utf8')) as {
    rows?: { name: string; p50: number }[];
  };
  return checkCosts(file, (name) => report.rows?.find((row) => row.name === name)?.p50);
}

function checkCosts(source: string, p50: (name: string) => number | undefined): StartCosts {
  const [parked, forked] = [p50('parked'), p50('forked')];
  if (parked === undefined || forked === undefined)
    throw new Error(`"${source}" has no measured rows "parked" and "forked"; see --starts`);
  return { parked, forked };
}

function exit(text: string, status: number): never {
  (status === 0 ? console.log : console.error)(text);
  process.exit(status);
}
