/**
 * Every failure that Hatchery reports has one of these codes. The list is closed: a caller may
 * switch on it. `status` follows HTTP so that it fits `Nats-Service-Error-Code`; `fault` says who
 * can mend it: the caller or the function's developer (`user`), or the operator and us (`host`).
 */
export const errorCodes = {
  // What a caller sent.
  'request.invalid': { status: 400, fault: 'user' },
  'request.too_large': { status: 413, fault: 'user' },
  'request.cancelled': { status: 499, fault: 'user' },
  'request.forbidden': { status: 403, fault: 'user' },
  // What the function did.
  'function.not_found': { status: 404, fault: 'user' },
  'function.threw': { status: 500, fault: 'user' },
  'function.exited': { status: 500, fault: 'user' },
  'function.load_failed': { status: 500, fault: 'user' },
  'function.oom': { status: 507, fault: 'user' },
  'function.timeout': { status: 504, fault: 'user' },
  'function.result_invalid': { status: 502, fault: 'user' },
  'function.result_too_large': { status: 502, fault: 'user' },
  // What a developer deploys.
  'deploy.invalid': { status: 400, fault: 'user' },
  'deploy.conflict': { status: 409, fault: 'user' },
  'deploy.failed': { status: 422, fault: 'user' },
  'version.not_found': { status: 404, fault: 'user' },
  'secret.not_found': { status: 404, fault: 'user' },
  'secret.in_use': { status: 409, fault: 'user' },
  'volume.not_found': { status: 404, fault: 'user' },
  'volume.in_use': { status: 409, fault: 'user' },
  // Limits reached.
  'host.busy': { status: 429, fault: 'host' },
  'host.draining': { status: 503, fault: 'host' },
  // What an operator must mend.
  'host.unsupported': { status: 500, fault: 'host' },
  'host.config_invalid': { status: 500, fault: 'user' },
  'host.nats_unavailable': { status: 503, fault: 'host' },
  'host.start_failed': { status: 503, fault: 'host' },
  'host.cleanup_failed': { status: 500, fault: 'host' },
  'image.not_found': { status: 404, fault: 'user' },
  'image.invalid': { status: 422, fault: 'user' },
  'image.cache_full': { status: 507, fault: 'host' },
  'image.registry_denied': { status: 403, fault: 'user' },
  'image.registry_failed': { status: 503, fault: 'host' },
  'trace.not_found': { status: 404, fault: 'user' },
  // A broken invariant: please report it.
  'internal.bug': { status: 500, fault: 'host' },
} as const;

export type ErrorCode = keyof typeof errorCodes;

export class HatchError extends Error {
  override readonly name = 'HatchError';
  readonly code: ErrorCode;
  /** Facts a program can read: limits, sizes, scopes. Never secrets. */
  readonly details: Record<string, unknown>;

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; details?: Record<string, unknown> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
  }

  get status(): number {
    return errorCodes[this.code].status;
  }

  get fault(): 'user' | 'host' {
    return errorCodes[this.code].fault;
  }
}

/** Turns whatever was thrown into a HatchError; what we did not foresee becomes `internal.bug`. */
export function toHatchError(error: unknown, code: ErrorCode = 'internal.bug'): HatchError {
  if (error instanceof HatchError) return error;
  return new HatchError(code, messageOf(error), { cause: error });
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
