/**
 * Runs all test files, or those that match a pattern, as one run: files that keep to themselves two
 * at a time, those that use hosts one by one; then looks for what they left on the machine. Without
 * a pattern, some run once more on another kernel, in a VM. Ends with one summary, `# pass N` and
 * so on, and with status 0 only when all is well.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { assertNothingLeft, takeInventory } from '../test/support/leak-check.ts';
import { slowness } from '../test/support/slowness.ts';
import { findTestFiles, initFor } from './test-files.ts';
import { runTestsInVm } from './vm/run.ts';
import { SummaryFilter } from './vm/summary.ts';
import type { TestEvent } from 'node:test/reporters';

interface Group {
  files: RegExp;
  concurrency: number;
  /** For one file. */
  timeoutMs: number;
}

const graceMs = 5000;
const repository = join(import.meta.dirname, '..');
/** A file belongs to the first group that matches. */
const groups: Group[] = [
  { files: /^test\/(unit\/|[^/]+$)/, concurrency: 2, timeoutMs: 120_000 },
  { files: /^test\/contract\//, concurrency: 1, timeoutMs: 180_000 },
  { files: /./, concurrency: 1, timeoutMs: 300_000 },
];
/** Of each mechanism that depends on Debian's kernel; all others, and ZFS, by `npm run test:vm`. */
const vmPattern = 'contract/|conformance/(1-namespaces|3-|4-)|integration/seccomp';
const vmLimitMs = 15 * 60_000;
const counted = ['tests', 'suites', 'passed', 'failed', 'cancelled', 'skipped', 'todo'] as const;
const shown: Record<string, string> = { passed: 'pass', failed: 'fail' };
const summary = new Map(counted.map((name) => [name, 0]));
const startMs = performance.now();

await main(process.argv[2]);

async function main(pattern: string | undefined): Promise<void> {
  const files = findFiles(pattern);
  if (files.length === 0) {
    console.error(`No test file matches "${pattern ?? ''}"; try a part of a path below test/`);
    process.exitCode = 1;
    return;
  }
  const before = takeInventory({ allMounts: true, ownDescriptors: false });
  // Unpacked by the first test that starts a host, for all of them.
  const layers = mkdtempSync(join(tmpdir(), 'hatch-test-layers-'));
  process.env['HATCH_TEST_LAYERS'] = layers;
  await printReport(runGroups(files));
  rmSync(layers, { recursive: true });
  let clean = true;
  try {
    await assertNothingLeft(before);
  } catch (error) {
    clean = false;
    console.error(error instanceof Error ? error.message : error);
  }
  if (pattern === undefined && !(await runVmPart())) clean = false;
  printSummary();
  const bad = (summary.get('failed') ?? 0) + (summary.get('cancelled') ?? 0);
  if (bad > 0 || !clean || (summary.get('tests') ?? 0) === 0) process.exitCode = 1;
}

/** In a VM those that are for it. */
function findFiles(pattern: string | undefined): string[] {
  const init = process.env['HATCH_TEST_INIT'];
  return findTestFiles(pattern).filter((file) => init === undefined || initFor(file) === init);
}

async function* runGroups(files: string[]): AsyncGenerator<TestEvent> {
  const left = new Set(files);
  for (const { files: mine, concurrency, timeoutMs } of groups) {
    const group = [...left].filter((file) => mine.test(file));
    for (const file of group) left.delete(file);
    if (group.length > 0) yield* runGroup(group, concurrency, timeoutMs * slowness);
  }
}

/** The events of one run, without its own summary: that is added to ours. */
async function* runGroup(
  files: string[],
  concurrency: number,
  timeout: number,
): AsyncGenerator<TestEvent> {
  const events = run({ cwd: repository, files, concurrency, timeout });
  const watchdog = setInterval(killOverdue, 1000, new Map<string, number>(), timeout);
  for await (const event of events as AsyncIterable<TestEvent>) {
    if (event.type === 'test:summary') addToSummary(event.data);
    else if (!isSummaryLine(event)) yield event;
  }
  clearInterval(watchdog);
}

/** The runner ends a file that is late by SIGTERM, which a busy event loop never sees. */
function killOverdue(firstSeenMs: Map<string, number>, timeoutMs: number): void {
  const path = `/proc/self/task/${process.pid}/children`;
  for (const pid of readFileSync(path, 'utf8').split(' ').filter(Boolean)) {
    const sinceMs = firstSeenMs.get(pid) ?? performance.now();
    firstSeenMs.set(pid, sinceMs);
    if (performance.now() - sinceMs > timeoutMs + graceMs) process.kill(Number(pid), 'SIGKILL');
  }
}

function addToSummary(data: { file: string | undefined; counts: Record<string, number> }): void {
  // The summaries of single files are parts of the run's.
  if (data.file !== undefined) return;
  for (const name of counted)
    summary.set(name, (summary.get(name) ?? 0) + (data.counts[name] ?? 0));
}

function isSummaryLine(event: TestEvent): boolean {
  return (
    event.type === 'test:diagnostic' &&
    event.data.nesting === 0 &&
    /^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) \d/.test(event.data.message)
  );
}

async function printReport(events: AsyncGenerator<TestEvent>): Promise<void> {
  for await (const text of Readable.from(events).compose(new spec())) process.stdout.write(text);
}

/** True when all went well there; its counts are added to ours. */
async function runVmPart(): Promise<boolean> {
  const filter = new SummaryFilter((text) => process.stdout.write(text));
  const onOutput = (text: string): void => filter.push(text);
  let status = 1;
  try {
    const options = { limitMs: vmLimitMs, onOutput, zfs: false };
    status = await runTestsInVm({ pattern: vmPattern, ...options });
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
  }
  for (const name of counted) {
    const count = filter.counts.get(shown[name] ?? name) ?? 0;
    summary.set(name, (summary.get(name) ?? 0) + count);
  }
  return status === 0;
}

function printSummary(): void {
  for (const [name, count] of summary) console.log(`# ${shown[name] ?? name} ${count}`);
  console.log(`# duration_ms ${Math.round(performance.now() - startMs)}`);
}
