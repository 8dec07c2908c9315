/** The benches run and say what they are to say; how fast it was is not judged here. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Row } from '../bench/report.ts';
import { assertNothingLeft, takeInventory } from '../support/leak-check.ts';
import { hasZfs } from '../support/zfs.ts';

interface Report {
  scenario: string;
  machine: Record<string, unknown>;
  rows: Row[];
  ratios: Record<string, number>;
}

const bench = join(import.meta.dirname, '../bench/bench.ts');
const compared = new Set(['bwrap+node', 'runc+node', 'crun+node']);
const storages = ['overlay/memory', 'overlay/ext4', 'overlay/xfs', 'overlay/btrfs', 'btrfs'];
const inventory = takeInventory({ prefix: 'hatch-bench' });
let directory = '';

before(() => {
  directory = mkdtempSync(join(tmpdir(), 'hatch-test-bench-'));
});

after(async () => {
  rmSync(directory, { recursive: true });
  await assertNothingLeft(inventory);
});

const expected: Record<string, { rows: Record<string, string>; ratios: string[] }> = {
  start: {
    rows: Object.fromEntries(
      'parked forked booted node bwrap+node runc+node crun+node parked-spaced forked-spaced'
        .split(' ')
        .map((name) => [name, 'ms']),
    ),
    ratios: ['parked-spaced/parked', 'forked-spaced/forked'],
  },
  call: {
    rows: { call: 'ms', echo: 'ms', 'call-throughput': 'calls/s', 'echo-throughput': 'calls/s' },
    ratios: ['call-p50/echo-p50', 'call-throughput/echo-throughput'],
  },
  density: { rows: { 'pss-per-instance': 'MB' }, ratios: ['last-50/first-50'] },
  burst: { rows: { 'last-reply': 'ms', 'starts-per-second': '1/s' }, ratios: [] },
  frozen: { rows: { hot: 'ms', thawed: 'ms' }, ratios: ['thawed/hot'] },
  fairness: { rows: { 'max-share-error': 'points', 'quota-error': 'points' }, ratios: [] },
  memory: {
    rows: Object.fromEntries(
      'private shared page-tables kernel charged paid-by-host budgeted'
        .split(' ')
        .map((name) => [name, 'MB']),
    ),
    ratios: ['charged/total', 'budgeted/total'],
  },
  interference: {
    rows: Object.fromEntries(
      'quiet noisy burst quiet-call bombed-call'.split(' ').map((name) => [name, 'ms']),
    ),
    ratios: ['noisy-p95/quiet-p95', 'bombed-call-p95/quiet-call-p95'],
  },
  copyup: { rows: { 'copy-ups 8 MiB': 'ms', 'copy-ups 4 KiB': 'ms' }, ratios: [] },
  storage: {
    rows: Object.fromEntries(
      [...storages, ...(hasZfs ? ['zfs'] : [])].flatMap((name): [string, string][] => [
        [`${name} 8 MiB`, 'ms'],
        [`${name} 8 MiB taken`, 'KiB'],
        [`${name} start`, 'ms'],
        [`${name} teardown`, 'ms'],
      ]),
    ),
    ratios: ['overlay/ext4 128 MiB/btrfs 128 MiB'],
  },
  coldcache: {
    rows: Object.fromEntries(
      ['hello', 'markdown', 'ledger'].flatMap((name) =>
        ['warm', 'cold', 'listed'].map((cache) => [`${name} ${cache}`, 'ms']),
      ),
    ),
    ratios: ['markdown cold/warm', 'markdown listed/cold'],
  },
  pull: {
    rows: { pull: 'ms', 'skopeo+umoci': 'ms', import: 'ms', 'pull-peak-memory': 'MB' },
    ratios: ['skopeo+umoci/pull', 'umoci-unpack/import'],
  },
  layers: {
    rows: Object.fromEntries(
      'all-layers without-seccomp all-layers-drop without-seccomp-drop step-fork step-load'
        .split(' ')
        .map((name) => [name, 'ms']),
    ),
    ratios: [],
  },
};

/** Ratios that hold in a run of few samples too. */
const checks: Record<string, (report: Report) => void> = {
  memory({ ratios }) {
    const share = ratios['budgeted/total'] ?? NaN;
    assert.ok(share > 0.8 && share < 1.5, `the budget counts ${share} of what instances take`);
  },
  interference({ rows }) {
    const [quiet, noisy] = ['quiet', 'noisy'].map((name) => rows.find((row) => row.name === name));
    assert.equal(noisy?.['parked'], noisy?.n, 'what was parked for B was given to A');
    const slower = (noisy?.p50 ?? NaN) / (quiet?.p50 ?? NaN);
    assert.ok(slower < 4, `a start of B takes ${slower} times as long while A bursts`);
  },
};

for (const [scenario, { rows, ratios }] of Object.entries(expected))
  test(`bench ${scenario} writes its rows and ratios`, () => {
    const report = run(scenario);
    assert.equal(report.scenario, scenario);
    assert.equal(typeof report.machine['kernel'], 'string');
    for (const [name, unit] of Object.entries(rows)) {
      const row = report.rows.find((one) => one.name === name);
      assert.ok(row, `there is no row "${name}"`);
      assert.equal(row.unit, unit);
      // What is compared need not be installed; ours has to be measured.
      if (row.n === 0 && compared.has(name)) continue;
      assert.ok(row.n > 0, `"${name}" was not measured`);
      assert.ok(row.p50 > 0 && row.p50 <= row.p95 && row.p95 <= row.p99, JSON.stringify(row));
    }
    checks[scenario]?.(report);
    for (const name of ratios) assert.ok((report.ratios[name] ?? 0) > 0, `no ratio "${name}"`);
  });

test('an unknown scenario is refused with the usage', () => {
  const { status, stderr } = spawnSync(process.execPath, [bench, 'speed'], { encoding: 'utf8' });
  assert.equal(status, 2);
  const [, names = ''] = /Usage: npm run bench -- (\S+)/.exec(stderr) ?? [];
  for (const name of [...Object.keys(expected), 'all'])
    assert.ok(names.split('|').includes(name), stderr);
});

function run(scenario: string): Report {
  const file = join(directory, `${scenario}.json`);
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [bench, scenario, '--quick', '--json', file],
    { encoding: 'utf8', timeout: 120_000 },
  );
  assert.equal(status, 0, `${stdout}${stderr}`);
  return JSON.parse(readFileSync(file, 'utf8')) as Report;
}
