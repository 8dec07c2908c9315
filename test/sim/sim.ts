/**
 * Replays a trace through the host's own policies, without containers:
 *
 *     npm run sim -- keepalive TRACE_FOLDER [--json FILE]
 *     npm run sim -- layers TRACE_FILE [--json FILE]
 *
 * The files of a trace are described in trace.ts and layer-trace.ts, what is assumed about when
 * calls come in arrivals.ts.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { align, printReport, writeReport } from '../bench/report.ts';
import { arrivalModels, type ArrivalModel } from './arrivals.ts';
import { simulateKeepAlive, type KeepAliveReport } from './keepalive.ts';
import { readPulls } from './layer-trace.ts';
import { simulateLayers, type LayersReport } from './layers.ts';
import type { StartCosts } from './replay.ts';
import { readTrace, TraceError } from './trace.ts';

const scenarios = ['keepalive', 'layers'] as const;

const usage = `Usage: npm run sim -- keepalive TRACE_FOLDER [options]
       npm run sim -- layers TRACE_FILE [options]

keepalive: cold starts and idle memory of the host's policies, and of others, on a trace of calls:
invocations.csv, durations.csv and memory.csv, as the Azure Functions data set of 2019 has them.
layers: which layers of a registry's log (t,type,digest,size) are on the host when they are pulled,
with 1, 5 and 20 % of the bytes of all layers to keep them in.

  --json FILE        write the rows and ratios there
  --window N         layers: pulls in a burst, all that a schedule tells of at a time (default 200)
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

const layerNotes = `hits              pulls whose layer was there; and the same by bytes
lru, default      least recently used, and ours (gdsf): by use, size and what a pull costs
pin               the schedule tells which layers the next burst pulls, and how often; those that
                  give most pulls per byte are kept once they are pulled
prefetch+pin      and are fetched before the burst; -late: from its first pull on, one by one, 20 ms
                  and 100 MB/s each; -rough: the schedule misses a quarter, counts are wrong by 2
learnt+pin        no schedule: fetched and kept is what was pulled before
belady            evicts what takes most bytes for longest until its next pull; fetches nothing`;

try {
  main();
} catch (error) {
  // A TraceError by name: it is the trace that has to be changed.
  const name = error instanceof TraceError ? `${error.name}: ` : '';
  console.error(`sim: ${name}${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}

function main(): void {
  const args = readArguments();
  const startMs = performance.now();
  if (args.scenario === 'layers') layers(args);
  else keepAlive(args);
  console.log(`\n${((performance.now() - startMs) / 1000).toFixed(1)} s`);
}

function layers({ path, json, window }: Arguments): void {
  const pulls = readPulls(path);
  const report = simulateLayers(pulls, { window, progress });
  progress('');
  console.log(
    `${pulls.length} pulls of ${report.uniqueBytes} bytes of layers, bursts of ${window}`,
  );
  console.log(`\n${layerTable(report)}\n\n${layerNotes}`);
  printReport({ ...report, rows: [] });
  if (json !== undefined) writeReport(json, 'layers', report);
}

function layerTable({ rows }: LayersReport): string {
  const lines = rows.map((row) => [
    row.name,
    row.objectHits.toFixed(1),
    row.byteHits.toFixed(1),
    (row.prefetchedBytes / 2 ** 20).toFixed(0),
  ]);
  return align([['', 'hits %', 'of bytes %', 'ahead MiB'], ...lines]);
}

function keepAlive({ path, json, model, seed, capShare, starts }: Arguments): void {
  const trace = readTrace(path);
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
  scenario: (typeof scenarios)[number];
  path: string;
  json: string | undefined;
  model: ArrivalModel;
  seed: number;
  capShare: number;
  starts: string | undefined;
  window: number;
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
        window: { type: 'string', default: '200' },
        help: { type: 'boolean', default: false },
      },
      allowPositionals: true,
    });
    if (values.help) exit(usage, 0);
    const [named, path, ...rest] = positionals;
    const scenario = scenarios.find((name) => name === named);
    if (scenario === undefined)
      throw new Error(`"${named ?? ''}" is no scenario: ${scenarios.join(' and ')} are`);
    if (path === undefined || rest.length > 0) throw new Error('Name one trace');
    const model = arrivalModels.find((name) => name === values.arrivals);
    if (model === undefined) throw new Error(`--arrivals is one of ${arrivalModels.join(', ')}`);
    const [seed, capShare] = [Number(values.seed), Number(values.cap)];
    const window = Number(values.window);
    if (!Number.isInteger(seed)) throw new Error('--seed is a whole number');
    if (!(capShare > 0 && capShare <= 1))
      throw new Error('--cap is a share: more than 0, at most 1');
    if (!(Number.isInteger(window) && window > 0))
      throw new Error('--window is a number of pulls, at least 1');
    const { json, starts } = values;
    return { scenario, path, json, model, seed, capShare, starts, window };
  } catch (error) {
    exit(`sim: ${error instanceof Error ? error.message : String(error)}\n\n${usage}`, 2);
  }
}

/** The last measured figures are the ones we publish. */
function costsOfReadme(): StartCosts {
  const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8');
  const p50 = (name: string): number | undefined => {
    const cell = new RegExp(`^\\| ${name} +\\| +([\\d.]+) +\\|`, 'm').exec(readme)?.[1];
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
