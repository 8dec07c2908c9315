/**
 * eBPF instructions by name (RFC 9669), for programs so short that a compiler would be the larger
 * part. A program is a list of them; jumps name a label further down.
 */

// <linux/bpf.h>, <linux/bpf_common.h>
const BPF_LDX = 0x01;
const BPF_ST = 0x02;
const BPF_STX = 0x03;
const BPF_JMP = 0x05;
const BPF_JMP32 = 0x06;
const BPF_ALU64 = 0x07;
const BPF_W = 0x00;
const BPF_DW = 0x18;
const BPF_IMM = 0x00;
const BPF_MEM = 0x60;
const BPF_K = 0x00;
const BPF_X = 0x08;
const BPF_ADD = 0x00;
const BPF_SUB = 0x10;
const BPF_AND = 0x50;
const BPF_MOV = 0xb0;
const BPF_JEQ = 0x15;
const BPF_JNE = 0x50;
const BPF_CALL = 0x80;
const BPF_EXIT = 0x90;
const BPF_PSEUDO_MAP_FD = 1;

/** Helpers of the kernel that a program may call. */
export const helper = {
  map_lookup_elem: 1,
  map_update_elem: 2,
  ktime_get_ns: 5,
  get_current_pid_tgid: 14,
  get_current_cgroup_id: 80,
  probe_read_kernel: 113,
  get_current_task_btf: 158,
  task_pt_regs: 175,
} as const;

/** r0: results; r1 to r5: arguments, lost in a call; r6 to r9 stay; `fp`: the end of the stack. */
export type Register = 'r0' | 'r1' | 'r2' | 'r3' | 'r4' | 'r5' | 'r6' | 'r7' | 'r8' | 'r9' | 'fp';

/** Bytes of one instruction. */
export const bpfInstructionBytes = 8;

export type Instruction = { label: string } | Encoding;

interface Encoding {
  code: number;
  to?: Register;
  from?: Register | number;
  offset?: number;
  constant?: number;
  jumpTo?: string;
}

/** `[register + offset]` of 4 or 8 bytes into a register. */
export function load(to: Register, from: Register, offset: number, bytes: 4 | 8 = 8): Instruction {
  return { code: BPF_LDX | BPF_MEM | (bytes === 8 ? BPF_DW : BPF_W), to, from, offset };
}

/** A register into the 8 bytes at `[register + offset]`. */
export function store(to: Register, offset: number, from: Register): Instruction {
  return { code: BPF_STX | BPF_MEM | BPF_DW, to, from, offset };
}

export function storeConstant(to: Register, offset: number, constant: number): Instruction {
  return { code: BPF_ST | BPF_MEM | BPF_DW, to, offset, constant };
}

export function move(to: Register, from: Register | number): Instruction {
  return arithmetic(BPF_MOV, to, from);
}

export function add(to: Register, what: Register | number): Instruction {
  return arithmetic(BPF_ADD, to, what);
}

export function subtract(to: Register, what: Register | number): Instruction {
  return arithmetic(BPF_SUB, to, what);
}

export function and(to: Register, what: Register | number): Instruction {
  return arithmetic(BPF_AND, to, what);
}

/** The address of a map, by its descriptor; takes two places. */
export function loadMap(to: Register, fd: number): Instruction[] {
  return [
    // The source register says what the constant is.
    { code: BPF_IMM | BPF_DW, to, from: BPF_PSEUDO_MAP_FD, constant: fd },
    { code: 0 },
  ];
}

export function call(name: keyof typeof helper): Instruction {
  return { code: BPF_JMP | BPF_CALL, constant: helper[name] };
}

export function label(name: string): Instruction {
  return { label: name };
}

export function jumpIfEqual(register: Register, constant: number, jumpTo: string): Instruction {
  return { code: BPF_JEQ, to: register, constant, jumpTo };
}

export function jumpIfNotEqual(one: Register, other: Register, jumpTo: string): Instruction {
  return { code: BPF_JMP | BPF_JNE | BPF_X, to: one, from: other, jumpTo };
}

/** Of the lower 4 bytes: an `int`. */
export function jumpIfNotEqual32(
  register: Register,
  constant: number,
  jumpTo: string,
): Instruction {
  return { code: BPF_JMP32 | BPF_JNE | BPF_K, to: register, constant, jumpTo };
}

export function exit(): Instruction {
  return { code: BPF_JMP | BPF_EXIT };
}

/** As the kernel reads it. */
export function assemble(program: readonly Instruction[]): Buffer {
  const labels = new Map<string, number>();
  const encodings: Encoding[] = [];
  for (const instruction of program) {
    if ('label' in instruction) labels.set(instruction.label, encodings.length);
    else encodings.push(instruction);
  }
  return Buffer.concat(encodings.map((encoding, at) => encode(encoding, at, labels)));
}

/** struct bpf_insn { __u8 code; __u8 dst_reg:4, src_reg:4; __s16 off; __s32 imm; } */
function encode(encoding: Encoding, at: number, labels: ReadonlyMap<string, number>): Buffer {
  const { code, to, from, constant = 0, jumpTo } = encoding;
  const bytes = Buffer.alloc(bpfInstructionBytes);
  const source = typeof from === 'number' ? from : registerNumber(from);
  bytes.writeUInt8(code, 0);
  bytes.writeUInt8(registerNumber(to) | (source << 4), 1);
  bytes.writeInt16LE(jumpTo === undefined ? (encoding.offset ?? 0) : distance(jumpTo), 2);
  bytes.writeInt32LE(constant, 4);
  return bytes;

  function distance(name: string): number {
    const target = labels.get(name);
    if (target === undefined) throw new TypeError(`There is no label "${name}"`);
    return target - at - 1;
  }
}

function arithmetic(operation: number, to: Register, what: Register | number): Encoding {
  const code = BPF_ALU64 | operation;
  return typeof what === 'number'
    ? { code: code | BPF_K, to, constant: what }
    : { code: code | BPF_X, to, from: what };
}

function registerNumber(register: Register = 'r0'): number {
  return register === 'fp' ? 10 : Number(register.slice(1));
}
