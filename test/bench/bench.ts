/**
 * Measures us and what one would take instead, in one run, in turns:
 *
 *     npm run bench -- SCENARIO [--json FILE] [--markdown FILE] [--quick]
 *
 * Needs root. The ratios are what we quote: absolute times are the machine's.
 */
import { loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { measureBurst } from './burst.ts';
import { measureCall } from './call.ts';
import { measureColdCache } from './coldcache.ts';
import { measureCopyUp } from './copyup.ts';
import { measureDensity } from './density.ts';
import { measureFrozen } from './frozen.ts';
import { measureFairness } from './fairness.ts';
import { writeIntoDocument } from './markdown.ts';
import { measureInterference } from './interference.ts';
import { measureLayers } from './layers.ts';
import { measureMemory } from './memory.ts';
import { printReport, writeReport, type Measured, type Options } from './report.ts';
import { measurePull } from './pull.ts';
import { measureStart } from './start.ts';
import { measureStorage } from './storage.ts';
import { Worker } from './worker.ts';

const scenarios: Record<string, (options: Options) => Promise<Measured>> = {
  start: measureStart,
  call: measureCall,
  density: measureDensity,
  burst: measureBurst,
  frozen: measureFrozen,
  fairness: measureFairness,
  memory: measureMemory,
  interference: measureInterference,
  copyup: measureCopyUp,
  layers: measureLayers,
  coldcache: measureColdCache,
  storage: measureStorage,
  pull: measurePull,
};
const names = [...Object.keys(scenarios), 'all'].join('|');
const usage = `Usage: npm run bench -- ${names} [--json FILE] [--markdown FILE] [--quick]`;

try {
  await main();
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const { scenario, json, markdown, quick } = readArguments();
  if (process.getuid?.() !== 0) fail('Run this as root: it starts containers', 1);
  const [load = 0] = loadavg();
  if (load > 0.5 && !quick)
    console.error(`The machine is busy (load ${load.toFixed(2)}): expect noise`);
  const all: Measured = { rows: [], ratios: {}, budgets: [] };
  for (const name of scenario === 'all' ? Object.keys(scenarios) : [scenario]) {
    const measured = await measure(name, quick);
    console.log(`\n${name}`);
    printReport(measured);
    all.rows.push(...measured.rows);
    Object.assign(all.ratios, measured.ratios);
  }
  if (json !== undefined) writeReport(json, scenario, all);
  if (markdown !== undefined) writeIntoDocument(markdown, all);
}

async function measure(name: string, quick: boolean): Promise<Measured> {
  const run = scenarios[name];
  if (run === undefined) fail(usage, 2);
  const onTerminal = process.stderr.isTTY;
  const progress = (text: string): void => {
    process.stderr.write(onTerminal ? `\r\x1b[K${name}: ${text} ` : `${name}: ${text}\n`);
  };
  // Ctrl-C ends the waiting; the process ends when the helpers have cleaned up.
  const onSignal = (): void => Worker.interruptAll();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, onSignal);
  try {
    return await run({ quick, progress });
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, onSignal);
    if (onTerminal) process.stderr.write('\r\x1b[K');
  }
}

interface Arguments {
  scenario: string;
  json: string | undefined;
  /** Replaces the tables in a document. */
  markdown: string | undefined;
  quick: boolean;
}

function readArguments(): Arguments {
  try {
    const { values, positionals } = parseArgs({
      options: {
        json: { type: 'string' },
        markdown: { type: 'string' },
        quick: { type: 'boolean', default: false },
      },
      allowPositionals: true,
    });
    const [scenario = '', ...rest] = positionals;
    const isKnown = scenario === 'all' || Object.hasOwn(scenarios, scenario);
    if (!isKnown || rest.length > 0) fail(usage, 2);
    return { scenario, json: values.json, markdown: values.markdown, quick: values.quick };
  } catch (error) {
    fail(`${error instanceof Error ? error.message : String(error)}\n${usage}`, 2);
  }
}

function fail(message: string, status: number): never {
  console.error(message);
  process.exit(status);
}
