import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';

test('After settling, memory comes from the end of the heap instead of from gaps in it', () => {
  // As the zygote runs: other threads would free memory meanwhile.
  const args = ['--single-threaded', join(import.meta.dirname, 'heap-child.ts')];
  const { before, after } = JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' }));
  assert.ok(before > 15, `only ${before} lay in gaps to begin with`);
  // Node.js itself frees a little in between.
  assert.ok(after <= 3, `${after} lie in gaps`);
});
