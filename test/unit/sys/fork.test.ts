import assert from 'node:assert/strict';
import { test } from 'node:test';
import { settleHeap } from '../../../host/sys/fork.ts';
import { libraryFunction } from '../../../host/sys/libc.ts';

const malloc = libraryFunction<[number], bigint>('libc.so.6', 'uint64_t malloc(size_t size)');
const free = libraryFunction<[bigint], void>('libc.so.6', 'void free(uint64_t block)');

test('After settling, memory comes from the end of the heap instead of from gaps in it', () => {
  const sizes = [40, 200, 1000, 5000, 30_000];
  const blocks = sizes.flatMap((size) => Array.from({ length: 50 }, () => BigInt(malloc(size))));
  const last = blocks.reduce((highest, block) => (block > highest ? block : highest));
  // Every second one: no two gaps become one.
  blocks.filter((_block, index) => index % 2 === 0).forEach((block) => free(block));
  assert.ok(
    sizes.some((size) => malloc(size) < last),
    'there were no gaps to begin with',
  );
  settleHeap();
  const later = sizes.flatMap((size) => Array.from({ length: 5 }, () => BigInt(malloc(size))));
  // Node.js itself frees a little in between.
  const inGaps = later.filter((block) => block < last).length;
  assert.ok(inGaps <= 3, `${inGaps} of ${later.length} lie in gaps`);
});
