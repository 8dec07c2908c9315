import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readTrace } from '../../sim/trace.ts';

const folders: string[] = [];
after(() => folders.forEach((folder) => rmSync(folder, { recursive: true })));

const good = {
  'invocations.csv': 'HashOwner,HashFunction,Trigger,480,481\no,f,timer,1,0\no,g,http,0,2\n',
  'durations.csv': 'HashFunction,Average\nf,12\ng,5.5\n',
  'memory.csv': 'HashFunction,AverageAllocatedMb\nf,100\ng,20.5\n',
};

function folderWith(files: Partial<typeof good>): string {
  const folder = mkdtempSync(join(tmpdir(), 'hatch-trace-'));
  folders.push(folder);
  for (const [name, text] of Object.entries({ ...good, ...files }))
    writeFileSync(join(folder, name), text);
  return folder;
}

test('a trace is read with what belongs to each function', () => {
  assert.deepEqual(readTrace(folderWith({})), {
    functions: [
      { name: 'f', isTimer: true, calls: [1, 0], durationMs: 12, memoryMb: 100 },
      { name: 'g', isTimer: false, calls: [0, 2], durationMs: 5.5, memoryMb: 20.5 },
    ],
    minutes: 2,
    incomplete: 0,
  });
});

test('functions that the other files do not have are counted, not guessed', () => {
  const folder = folderWith({ 'memory.csv': 'HashFunction,AverageAllocatedMb\nf,100\n' });
  const { functions, incomplete } = readTrace(folder);
  assert.deepEqual([functions.length, incomplete], [1, 1]);
});

test('what is wrong with a file is said with its place', () => {
  const wrong: [files: Partial<typeof good>, message: RegExp][] = [
    [{ 'memory.csv': 'HashFunction,Size\nf,1\n' }, /memory\.csv" has no column "AverageAlloc/],
    [{ 'durations.csv': 'HashFunction,Average\nf,1\ng,x\n' }, /durations\.csv", line 3/],
    [{ 'invocations.csv': 'HashFunction,Trigger\nf,http\n' }, /no columns of minutes/],
    [{ 'invocations.csv': 'HashFunction,Trigger,1\nf,http,x\n' }, /line 2: a count/],
    [{ 'invocations.csv': 'HashFunction,Trigger,1\nf,http,0\n' }, /no function with calls/],
  ];
  for (const [files, message] of wrong) assert.throws(() => readTrace(folderWith(files)), message);
});

test('the simulator prints its table and writes the ratios, and says how it is used', () => {
  const script = join(import.meta.dirname, '../../sim/sim.ts');
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [script, ...args], { encoding: 'utf8' });
  const folder = folderWith({});
  const json = join(folder, 'report.json');
  const { stdout, status } = run('keepalive', folder, '--json', json);
  assert.equal(status, 0);
  assert.match(stdout, /capped-clairvoyant/);
  const report = JSON.parse(readFileSync(json, 'utf8'));
  for (const name of ['cold/fixed-10min', 'idle/fixed-10min', 'capped-cold/clairvoyant'])
    assert.equal(typeof report.ratios[name], 'number', name);
  assert.match(run('--help').stdout, /Usage: npm run sim/);
  assert.match(run('keepalive', '/nowhere').stderr, /\/nowhere.*durations\.csv/);
  assert.deepEqual(
    [run('keepalife', folder).status, run('keepalive', folder, '--cap', '2').status],
    [2, 2],
  );
});
