import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  add,
  and,
  assemble,
  call,
  exit,
  jumpIfEqual,
  jumpIfNotEqual,
  jumpIfNotEqual32,
  label,
  load,
  loadMap,
  move,
  store,
  storeConstant,
  subtract,
  type Instruction,
} from '../../../host/sys/bpf-instructions.ts';

/** As `llvm-objdump` would take them apart: opcode, registers, offset, constant. */
const encodings: [string, Instruction[], string][] = [
  ['r6 = r1', [move('r6', 'r1')], 'bf16000000000000'],
  ['r4 = 0', [move('r4', 0)], 'b704000000000000'],
  ['r2 += -8', [add('r2', -8)], '07020000f8ffffff'],
  ['r0 &= 4095', [and('r0', 4095)], '57000000ff0f0000'],
  ['r8 -= r7', [subtract('r8', 'r7')], '1f78000000000000'],
  ['r1 = *(u64 *)(r6 + 24)', [load('r1', 'r6', 24)], '7961180000000000'],
  ['r1 = *(u32 *)(r0 + 8)', [load('r1', 'r0', 8, 4)], '6101080000000000'],
  ['*(u64 *)(r10 - 8) = r0', [store('fp', -8, 'r0')], '7b0af8ff00000000'],
  ['*(u64 *)(r10 - 16) = 0', [storeConstant('fp', -16, 0)], '7a0af0ff00000000'],
  ['r1 = map 5', loadMap('r1', 5), '18110000050000000000000000000000'],
  ['call bpf_ktime_get_ns', [call('ktime_get_ns')], '8500000005000000'],
  ['exit', [exit()], '9500000000000000'],
];
for (const [text, program, bytes] of encodings)
  test(text, () => assert.equal(assemble(program).toString('hex'), bytes));

test('jumps go to their labels', () => {
  const program = [
    jumpIfEqual('r0', 0, 'end'),
    ...loadMap('r1', 5),
    jumpIfNotEqual32('r1', 0, 'end'),
    jumpIfNotEqual('r1', 'r9', 'end'),
    label('end'),
    exit(),
  ];
  const code = assemble(program);
  assert.equal(code.subarray(0, 8).toString('hex'), '1500040000000000');
  assert.equal(code.subarray(24, 32).toString('hex'), '5601010000000000');
  assert.equal(code.subarray(32, 40).toString('hex'), '5d91000000000000');
  assert.throws(() => assemble([jumpIfEqual('r0', 0, 'nowhere')]), /There is no label "nowhere"/);
});
