/** Runs a seccomp program as the kernel would, on a call that never happens. */

export interface SeccompCall {
  number: number;
  /** AUDIT_ARCH_* of <linux/audit.h>. */
  architecture: number;
  arguments: readonly bigint[];
}

/** The SECCOMP_RET_* value with its data. */
export function runFilter(program: Buffer, call: SeccompCall): number {
  const data = encode(call);
  let accumulator = 0;
  for (let at = 0; at < program.length / 8; at += 1) {
    const code = program.readUInt16LE(at * 8);
    const [ifTrue, ifFalse] = [program.readUInt8(at * 8 + 2), program.readUInt8(at * 8 + 3)];
    const constant = program.readUInt32LE(at * 8 + 4);
    const branch = (condition: boolean) => (at += condition ? ifTrue : ifFalse);
    if (code === 0x20) accumulator = data.readUInt32LE(constant);
    else if (code === 0x06) return constant;
    else if (code === 0x05) at += constant;
    else if (code === 0x15) branch(accumulator === constant);
    else if (code === 0x25) branch(accumulator > constant);
    else if (code === 0x35) branch(accumulator >= constant);
    else if (code === 0x45) branch((accumulator & constant) !== 0);
    else if (code === 0x54) accumulator = (accumulator & constant) >>> 0;
    else throw new Error(`Instruction ${at} is unknown: 0x${code.toString(16)}`);
  }
  throw new Error('The program ends without a return');
}

/** struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer, args[6]; } */
function encode(call: SeccompCall): Buffer {
  const data = Buffer.alloc(64);
  data.writeUInt32LE(call.number >>> 0, 0);
  data.writeUInt32LE(call.architecture, 4);
  for (const [index, argument] of call.arguments.entries())
    data.writeBigUInt64LE(BigInt.asUintN(64, argument), 16 + index * 8);
  return data;
}
