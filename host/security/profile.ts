/** A seccomp profile as data. Everything that it does not name is refused. */

/** The call's name, and why it is in the list. */
export type CallReasons = Readonly<Record<string, string>>;

export interface Profile {
  readonly name: string;
  /** Allowed with any arguments. */
  readonly allowed: CallReasons;
  /** Allowed if one of the call's rules holds, EPERM otherwise. */
  readonly conditional: readonly ArgumentRule[];
  /** EPERM. As are calls that no list names: this one says that it is meant. */
  readonly denied: CallReasons;
  /** ENOSYS. As are calls newer than all that the profile names. */
  readonly absent: CallReasons;
}

export interface ArgumentRule {
  readonly call: string;
  readonly reason: string;
  /** All must hold. */
  readonly tests: readonly ArgumentTest[];
}

/** Holds if `(argument & mask) === equals`. Pointers cannot be followed by a filter. */
export interface ArgumentTest {
  /** 0..5 */
  readonly argument: number;
  readonly mask: bigint;
  readonly equals: bigint;
}

/**
 * The kernel looks at the lower half of an `int` argument and so must we: whoever sets a bit in the
 * upper half would otherwise make a value that we do not recognise and the kernel does.
 */
const intMask = 0xffff_ffffn;

export function rule(call: string, reason: string, ...tests: ArgumentTest[]): ArgumentRule {
  return { call, reason, tests };
}

/** An `int` argument has that value, in the bits of `mask`. */
export function is(argument: number, equals: bigint, mask: bigint = intMask): ArgumentTest {
  return { argument, mask, equals };
}
