/** Leaves gaps in the C heap, settles it, and tells how many new blocks lie in gaps. */
import { settleHeap } from '../../../host/sys/fork.ts';
import { libraryFunction } from '../../../host/sys/libc.ts';

const malloc = libraryFunction<[number], bigint>('libc.so.6', 'uint64_t malloc(size_t size)');
const free = libraryFunction<[bigint], void>('libc.so.6', 'void free(uint64_t block)');
const sizes = [40, 200, 1000, 5000, 30_000];

const allocate = (count: number): bigint[] =>
  sizes.flatMap((size) => Array.from({ length: count }, () => BigInt(malloc(size))));
const blocks = allocate(50);
const last = blocks.reduce((highest, block) => (block > highest ? block : highest));
const countInGaps = (): number => allocate(5).filter((block) => block < last).length;

// Every second one: no two gaps become one.
blocks.filter((_block, index) => index % 2 === 0).forEach((block) => free(block));
const before = countInGaps();
settleHeap();
console.log(JSON.stringify({ before, after: countInGaps() }));
