import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readPressure } from '../../../host/cgroup/pressure.ts';

const directory = mkdtempSync(join(tmpdir(), 'hatch-pressure-'));
after(() => rmSync(directory, { recursive: true }));

test('the averages of the last ten seconds are read', () => {
  const line = (kind: string, share: number) => `${kind} avg10=${share} avg60=9 avg300=9 total=7\n`;
  writeFileSync(join(directory, 'cpu'), line('some', 23.2));
  writeFileSync(join(directory, 'memory'), line('some', 1.38) + line('full', 0.5));
  assert.deepEqual(readPressure(directory), { cpuSome: 23.2, memorySome: 1.38, memoryFull: 0.5 });
});

test('a kernel that does not tell is no error', () => {
  assert.equal(readPressure(join(directory, 'nothing')), undefined);
});

test('this kernel tells shares, or that it does not tell', () => {
  for (const share of Object.values(readPressure() ?? {})) assert.ok(share >= 0 && share <= 100);
});
