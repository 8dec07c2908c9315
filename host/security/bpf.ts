/** The few BPF instructions that libseccomp does not write for us. */
import type { Architecture } from '../sys/seccomp.ts';

// <linux/bpf_common.h>, <linux/audit.h>, <linux/seccomp.h>
const loadAbsolute = 0x20;
const jumpIfEqual = 0x15;
const jumpIfAtLeast = 0x35;
const jumpIfGreater = 0x25;
const returnConstant = 0x06;
const auditArchitecture = { x64: 0xc000_003e, arm64: 0xc000_00b7 } as const;
const returnErrno = 0x0005_0000;
const returnUserNotification = 0x7fc0_0000;
/** Call numbers of x32 on x64 have this bit: the program behind kills them. */
const x32Bit = 0x4000_0000;
/** Offsets in struct seccomp_data. */
const offsetOf = { number: 0, architecture: 4 } as const;

/**
 * Answers calls above `highestNumber` with `errno`, and leaves all others, and those of foreign
 * architectures, to the program it is put in front of.
 */
export function unknownCallsPrologue(options: {
  architecture: Architecture;
  highestNumber: number;
  errno: number;
}): Buffer {
  return Buffer.concat([
    instruction(loadAbsolute, offsetOf.architecture),
    instruction(jumpIfEqual, auditArchitecture[options.architecture], { ifFalse: 4 }),
    instruction(loadAbsolute, offsetOf.number),
    instruction(jumpIfAtLeast, x32Bit, { ifTrue: 2 }),
    instruction(jumpIfGreater, options.highestNumber, { ifFalse: 1 }),
    instruction(returnConstant, returnErrno + options.errno),
  ]);
}

/**
 * Has the program ask who listens (seccomp_unotify(2)) where it would answer with `errno`: so a
 * refusal can be told of. It is for the listener then to give that answer.
 */
export function askInsteadOf(program: Buffer, errno: number): Buffer {
  const asking = Buffer.from(program);
  const refusal = instruction(returnConstant, returnErrno + errno);
  const question = instruction(returnConstant, returnUserNotification);
  for (let offset = 0; offset < asking.length; offset += refusal.length)
    if (asking.subarray(offset, offset + refusal.length).equals(refusal))
      question.copy(asking, offset);
  return asking;
}

/** struct sock_filter { __u16 code; __u8 jt, jf; __u32 k; } */
function instruction(
  code: number,
  constant: number,
  jump: { ifTrue?: number; ifFalse?: number } = {},
): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt16LE(code, 0);
  bytes.writeUInt8(jump.ifTrue ?? 0, 2);
  bytes.writeUInt8(jump.ifFalse ?? 0, 3);
  bytes.writeUInt32LE(constant, 4);
  return bytes;
}
