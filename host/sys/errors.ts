/** A failed system call, shaped like Node's own `fs` errors so that callers handle both alike. */
export class SyscallError extends Error {
  override readonly name = 'SyscallError';
  /** The errno's name, such as `EPERM`. */
  readonly code: string;
  /** Negative, as in Node's errors. */
  readonly errno: number;
  /** The call's name, such as `mount`. */
  readonly syscall: string;

  constructor(syscall: string, errno: number, code: string, detail: string) {
    super(`${code}: ${syscall}${detail === '' ? '' : ` ${detail}`}`);
    this.syscall = syscall;
    this.errno = -errno;
    this.code = code;
  }
}

/** True if `error` carries one of the given errno names, whether it came from `fs` or from FFI. */
export function isErrno(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}
